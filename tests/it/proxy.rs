//! A network to do harm to, and what the crate says meanwhile.

use std::io;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use throwaway_postgres::Server;

/// Passes connections on to a server.
pub(crate) struct Proxy {
    pub(crate) url: String,
    port: u16,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    accepted: AtomicUsize,
    refusing: AtomicBool,
    over: AtomicBool,
    delay: Mutex<Duration>,
    open: Mutex<Vec<TcpStream>>,
}

impl Proxy {
    pub(crate) fn to(server: &Server) -> Proxy {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::<Shared>::default();
        let acceptor = thread::spawn({
            let (shared, server) = (Arc::clone(&shared), server.port());
            move || {
                for client in listener.incoming().map(Result::unwrap) {
                    if shared.over.load(Ordering::SeqCst) {
                        return;
                    }
                    shared.accepted.fetch_add(1, Ordering::SeqCst);
                    if !shared.refusing.load(Ordering::SeqCst) {
                        shared.relay(client, server);
                    }
                }
            }
        });
        Proxy {
            url: format!("host=127.0.0.1 port={port} user=postgres dbname=postgres"),
            port,
            shared,
            acceptor: Some(acceptor),
        }
    }

    /// How many connections have been made to it?
    pub(crate) fn accepted(&self) -> usize {
        self.shared.accepted.load(Ordering::SeqCst)
    }

    /// From now on new connections are closed at once.
    pub(crate) fn refuse(&self) {
        self.shared.refusing.store(true, Ordering::SeqCst);
    }

    /// From now on new connections are passed on only after `delay`.
    pub(crate) fn delay(&self, delay: Duration) {
        *self.shared.delay.lock().unwrap() = delay;
    }

    /// Ends the present connections.
    pub(crate) fn cut(&self) {
        for stream in self.shared.open.lock().unwrap().drain(..) {
            stream.shutdown(Shutdown::Both).ok();
        }
    }
}

impl Shared {
    fn relay(&self, client: TcpStream, port: u16) {
        thread::sleep(*self.delay.lock().unwrap());
        let server = TcpStream::connect(("127.0.0.1", port)).unwrap();
        for (from, to) in [(&client, &server), (&server, &client)] {
            let (mut from, mut to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
            thread::spawn(move || {
                io::copy(&mut from, &mut to).ok();
                to.shutdown(Shutdown::Both).ok();
            });
        }
        self.open.lock().unwrap().extend([client, server]);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::SeqCst);
        self.cut();
        TcpStream::connect(("127.0.0.1", self.port)).ok();
        self.acceptor.take().map(JoinHandle::join);
    }
}
