//! A store that refuses writes with an older token than it has seen.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use crate::history::StoreWrite;

/// A request: the key, then the token.
type Request = [u8; 12];

/// The store's side.
pub(crate) struct Store {
    path: PathBuf,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<Vec<StoreWrite>>>,
}

impl Store {
    pub(crate) fn open(path: &Path) -> io::Result<Store> {
        let listener = UnixListener::bind(path)?;
        let over = Arc::new(AtomicBool::new(false));
        let thread = thread::spawn({
            let over = Arc::clone(&over);
            move || serve(&listener, &over)
        });
        Ok(Store {
            path: path.to_owned(),
            over,
            thread: Some(thread),
        })
    }

    /// All writes, in order. The clients must have disconnected.
    pub(crate) fn close(mut self) -> Vec<StoreWrite> {
        self.end()
    }

    fn end(&mut self) -> Vec<StoreWrite> {
        self.over.store(true, Ordering::SeqCst);
        UnixStream::connect(&self.path).ok();
        self.thread
            .take()
            .and_then(|thread| thread.join().ok())
            .unwrap_or_default()
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.end();
    }
}

#[derive(Default)]
struct Contents {
    newest: HashMap<i32, i64>,
    writes: Vec<StoreWrite>,
}

fn serve(listener: &UnixListener, over: &AtomicBool) -> Vec<StoreWrite> {
    let contents = Mutex::new(Contents::default());
    thread::scope(|scope| {
        for stream in listener.incoming().flatten() {
            if over.load(Ordering::SeqCst) {
                return;
            }
            let contents = &contents;
            scope.spawn(move || {
                // Fails when the client disconnects or is killed.
                answer(stream, contents).ok();
            });
        }
    });
    contents
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner)
        .writes
}

fn answer(mut stream: UnixStream, contents: &Mutex<Contents>) -> io::Result<()> {
    loop {
        let mut request = Request::default();
        stream.read_exact(&mut request)?;
        let (key, token) = request.split_at(4);
        let key = i32::from_le_bytes(key.try_into().map_err(io::Error::other)?);
        let token = i64::from_le_bytes(token.try_into().map_err(io::Error::other)?);
        let accepted = {
            let mut contents = contents.lock().unwrap_or_else(PoisonError::into_inner);
            let newest = contents.newest.entry(key).or_insert(0);
            let accepted = *newest <= token;
            *newest = token.max(*newest);
            contents.writes.push(StoreWrite {
                key,
                token,
                accepted,
            });
            accepted
        };
        stream.write_all(&[u8::from(accepted)])?;
    }
}

/// A worker's side.
pub(crate) struct Client(UnixStream);

impl Client {
    pub(crate) fn connect(path: &Path) -> io::Result<Client> {
        UnixStream::connect(path).map(Client)
    }

    /// True if the store accepted it.
    pub(crate) fn write(&mut self, key: i32, token: i64) -> io::Result<bool> {
        let mut request = Request::default();
        request[..4].copy_from_slice(&key.to_le_bytes());
        request[4..].copy_from_slice(&token.to_le_bytes());
        self.0.write_all(&request)?;
        let mut answer = [0];
        self.0.read_exact(&mut answer)?;
        Ok(answer[0] == 1)
    }
}
