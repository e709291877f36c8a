//! A network to do harm to.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use socket2::SockRef;

use crate::server::Server;

/// How often a connection looks whether harm is to be done to it.
const LOOK: Duration = Duration::from_millis(5);

/// A loopback port that passes connections on to a server, and can break them the way
/// networks do. Dropping it ends its connections and waits for its threads.
#[derive(Debug)]
pub struct Proxy {
    port: u16,
    weather: Arc<Weather>,
    acceptor: Option<JoinHandle<()>>,
}

/// What the network does at the moment.
#[derive(Debug, Default)]
struct Weather {
    over: AtomicBool,
    /// The ports that connections go to, in turn.
    targets: Mutex<Vec<u16>>,
    accepted: AtomicUsize,
    answers: AtomicUsize,
    refusing: AtomicBool,
    silent: AtomicBool,
    connect_delay: Mutex<Duration>,
    data_delay: Mutex<Duration>,
    links: Mutex<Vec<Arc<Link>>>,
}

/// One connection: the client's stream, and the server's.
#[derive(Debug)]
struct Link {
    client: TcpStream,
    server: TcpStream,
    ended: AtomicBool,
    /// What came last was a client's, and has no answer yet.
    asked: AtomicBool,
    /// The next message to the client is its last, and only half of it comes.
    torn: AtomicBool,
}

impl Proxy {
    /// A way to `server`, for as long as that has its port.
    ///
    /// # Errors
    ///
    /// There is no port for it.
    pub fn to(server: &Server) -> io::Result<Proxy> {
        Proxy::among(&[server.port()])
    }

    /// A way to the loopback ports `targets`: each connection goes to the next one, as with a
    /// balancer.
    ///
    /// # Errors
    ///
    /// There is no port for it.
    pub fn among(targets: &[u16]) -> io::Result<Proxy> {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let port = listener.local_addr()?.port();
        let weather = Arc::<Weather>::default();
        *locked(&weather.targets) = targets.to_vec();
        let acceptor = thread::spawn({
            let weather = Arc::clone(&weather);
            move || accept(&weather, &listener)
        });
        Ok(Proxy {
            port,
            weather,
            acceptor: Some(acceptor),
        })
    }

    /// From now on new connections go to `server`, as when an address moves.
    pub fn retarget(&self, server: &Server) {
        *locked(&self.weather.targets) = vec![server.port()];
    }

    /// A connection string that goes this way.
    pub fn url(&self) -> String {
        format!(
            "host=127.0.0.1 port={} user=postgres dbname=postgres",
            self.port
        )
    }

    /// How many connections have been made to it?
    pub fn accepted(&self) -> usize {
        self.weather.accepted.load(SeqCst)
    }

    /// How often a server has answered a client: the round trips after the connects.
    pub fn answers(&self) -> usize {
        self.weather.answers.load(SeqCst)
    }

    /// From now on new connections are closed at once, if `refuse`.
    pub fn refuse(&self, refuse: bool) {
        self.weather.refusing.store(refuse, SeqCst);
    }

    /// From now on new connections are passed on only after `delay`.
    pub fn delay_connects(&self, delay: Duration) {
        *locked(&self.weather.connect_delay) = delay;
    }

    /// From now on everything that is sent arrives only after `delay`.
    pub fn delay_data(&self, delay: Duration) {
        *locked(&self.weather.data_delay) = delay;
    }

    /// A partition, if `silent`: nothing that is sent arrives, not even that an end has
    /// closed its connection. When it is over everything arrives.
    pub fn silence(&self, silent: bool) {
        self.weather.silent.store(silent, SeqCst);
    }

    /// Closes the present connections.
    pub fn cut(&self) {
        for link in locked(&self.weather.links).drain(..) {
            link.ended.store(true, SeqCst);
            link.shut();
        }
    }

    /// Resets the present connections (RST).
    pub fn reset(&self) {
        for link in locked(&self.weather.links).drain(..) {
            for stream in [&link.client, &link.server] {
                SockRef::from(stream).set_linger(Some(Duration::ZERO)).ok();
            }
            // The last of its two threads closes the streams.
            link.ended.store(true, SeqCst);
        }
    }

    /// Cuts the present connections in the middle of the next message to the client.
    pub fn tear(&self) {
        for link in locked(&self.weather.links).drain(..) {
            link.torn.store(true, SeqCst);
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.weather.over.store(true, SeqCst);
        self.cut();
        // Wakes the acceptor.
        TcpStream::connect(("127.0.0.1", self.port)).ok();
        if let Some(acceptor) = self.acceptor.take() {
            acceptor.join().ok();
        }
    }
}

/// Takes connections until it is over, and waits for what it has started.
fn accept(weather: &Arc<Weather>, listener: &TcpListener) {
    thread::scope(|scope| {
        for client in listener.incoming().flatten() {
            if weather.over.load(SeqCst) {
                return;
            }
            let number = weather.accepted.fetch_add(1, SeqCst);
            if !weather.refusing.load(SeqCst) {
                scope.spawn(move || {
                    // A connection that fails is what this is for.
                    relay(weather, client, number).ok();
                });
            }
        }
    });
}

fn relay(weather: &Weather, client: TcpStream, number: usize) -> io::Result<()> {
    weather.pause(*locked(&weather.connect_delay));
    weather.keep_silence();
    let target = {
        let targets = locked(&weather.targets);
        targets[number % targets.len()]
    };
    let server = TcpStream::connect(("127.0.0.1", target))?;
    for stream in [&client, &server] {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(LOOK))?;
    }
    let link = Arc::new(Link {
        client,
        server,
        ended: AtomicBool::new(false),
        asked: AtomicBool::new(false),
        torn: AtomicBool::new(false),
    });
    {
        let mut links = locked(&weather.links);
        links.retain(|link| !link.ended.load(SeqCst));
        links.push(Arc::clone(&link));
    }
    thread::scope(|scope| {
        scope.spawn(|| link.pump(weather, &link.client, &link.server));
        link.pump(weather, &link.server, &link.client);
    });
    Ok(())
}

impl Link {
    /// Passes on what comes, until an end closes or harm is done.
    fn pump(&self, weather: &Weather, mut from: &TcpStream, mut to: &TcpStream) {
        let mut buffer = [0; 1 << 16];
        while !self.ended.load(SeqCst) && !weather.over.load(SeqCst) {
            let read = match from.read(&mut buffer) {
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) =>
                {
                    continue;
                }
                Ok(read) => read,
                Err(_) => 0,
            };
            weather.pause(*locked(&weather.data_delay));
            weather.keep_silence();
            if self.ended.load(SeqCst) {
                return;
            }
            let to_client = std::ptr::eq(to, &self.client);
            if read > 0 && self.asked.swap(!to_client, SeqCst) && to_client {
                weather.answers.fetch_add(1, SeqCst);
            }
            let torn = to_client && read > 0 && self.torn.load(SeqCst);
            let pass_on = if torn { read / 2 } else { read };
            if to.write_all(&buffer[..pass_on]).is_err() || torn || read == 0 {
                self.ended.store(true, SeqCst);
                self.shut();
            }
        }
    }

    fn shut(&self) {
        self.client.shutdown(Shutdown::Both).ok();
        self.server.shutdown(Shutdown::Both).ok();
    }
}

impl Weather {
    fn keep_silence(&self) {
        while self.silent.load(SeqCst) && !self.over.load(SeqCst) {
            thread::sleep(LOOK);
        }
    }

    fn pause(&self, delay: Duration) {
        let mut left = delay;
        while !left.is_zero() && !self.over.load(SeqCst) {
            let step = left.min(LOOK);
            thread::sleep(step);
            left -= step;
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A thread that panicked in here has not broken what is kept.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
