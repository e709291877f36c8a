//! A proxy that injects network faults.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use socket2::SockRef;

use crate::server::Server;

/// How often a connection checks for faults to inject.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// A loopback port that forwards connections to a server, and can break them as networks do.
/// Dropping it ends its connections and waits for its threads.
#[derive(Debug)]
pub struct Proxy {
    port: u16,
    network: Arc<Network>,
    acceptor: Option<JoinHandle<()>>,
}

/// The current behaviour of the network.
#[derive(Debug, Default)]
struct Network {
    over: AtomicBool,
    /// The ports that connections go to, round-robin.
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
    /// The last message was the client's, and has no response yet.
    asked: AtomicBool,
    /// The next message to the client is the last, and only half of it is forwarded.
    torn: AtomicBool,
}

impl Proxy {
    /// A proxy for `server`, as long as that keeps its port.
    ///
    /// # Errors
    ///
    /// No port is free.
    pub fn to(server: &Server) -> io::Result<Proxy> {
        Proxy::among(&[server.port()])
    }

    /// A proxy for the loopback ports `targets`: each connection goes to the next one, as with a
    /// load balancer.
    ///
    /// # Errors
    ///
    /// No port is free.
    pub fn among(targets: &[u16]) -> io::Result<Proxy> {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let port = listener.local_addr()?.port();
        let network = Arc::<Network>::default();
        *locked(&network.targets) = targets.to_vec();
        let acceptor = thread::spawn({
            let network = Arc::clone(&network);
            move || accept(&network, &listener)
        });
        Ok(Proxy {
            port,
            network,
            acceptor: Some(acceptor),
        })
    }

    /// From now on new connections go to `server`, as when an address moves.
    pub fn retarget(&self, server: &Server) {
        *locked(&self.network.targets) = vec![server.port()];
    }

    /// A connection string through this proxy.
    pub fn url(&self) -> String {
        format!(
            "host=127.0.0.1 port={} user=postgres dbname=postgres",
            self.port
        )
    }

    /// How many connections it has accepted.
    pub fn accepted(&self) -> usize {
        self.network.accepted.load(SeqCst)
    }

    /// How often a server has responded to a client: the round trips after the connects.
    pub fn answers(&self) -> usize {
        self.network.answers.load(SeqCst)
    }

    /// If `refuse`, new connections are closed at once from now on.
    pub fn refuse(&self, refuse: bool) {
        self.network.refusing.store(refuse, SeqCst);
    }

    /// From now on new connections are forwarded only after `delay`.
    pub fn delay_connects(&self, delay: Duration) {
        *locked(&self.network.connect_delay) = delay;
    }

    /// From now on everything that is sent arrives only after `delay`.
    pub fn delay_data(&self, delay: Duration) {
        *locked(&self.network.data_delay) = delay;
    }

    /// A partition, if `silent`: nothing that is sent arrives, not even that an end has
    /// closed its connection. When the partition ends, everything arrives.
    pub fn silence(&self, silent: bool) {
        self.network.silent.store(silent, SeqCst);
    }

    /// Closes the current connections.
    pub fn cut(&self) {
        for link in locked(&self.network.links).drain(..) {
            link.ended.store(true, SeqCst);
            link.shut();
        }
    }

    /// Resets the current connections (RST).
    pub fn reset(&self) {
        for link in locked(&self.network.links).drain(..) {
            for stream in [&link.client, &link.server] {
                SockRef::from(stream).set_linger(Some(Duration::ZERO)).ok();
            }
            // The last of its two threads closes the streams.
            link.ended.store(true, SeqCst);
        }
    }

    /// Cuts the current connections in the middle of the next message to the client.
    pub fn tear(&self) {
        for link in locked(&self.network.links).drain(..) {
            link.torn.store(true, SeqCst);
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.network.over.store(true, SeqCst);
        self.cut();
        // Wakes the acceptor.
        TcpStream::connect(("127.0.0.1", self.port)).ok();
        if let Some(acceptor) = self.acceptor.take() {
            acceptor.join().ok();
        }
    }
}

/// Accepts connections until the proxy is dropped, and waits for the threads that it started.
fn accept(network: &Arc<Network>, listener: &TcpListener) {
    thread::scope(|scope| {
        for client in listener.incoming().flatten() {
            if network.over.load(SeqCst) {
                return;
            }
            let number = network.accepted.fetch_add(1, SeqCst);
            if !network.refusing.load(SeqCst) {
                scope.spawn(move || {
                    // Failing connections are the purpose.
                    relay(network, client, number).ok();
                });
            }
        }
    });
}

fn relay(network: &Network, client: TcpStream, number: usize) -> io::Result<()> {
    network.pause(*locked(&network.connect_delay));
    network.keep_silence();
    let target = {
        let targets = locked(&network.targets);
        targets[number % targets.len()]
    };
    let server = TcpStream::connect(("127.0.0.1", target))?;
    for stream in [&client, &server] {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(POLL_INTERVAL))?;
    }
    let link = Arc::new(Link {
        client,
        server,
        ended: AtomicBool::new(false),
        asked: AtomicBool::new(false),
        torn: AtomicBool::new(false),
    });
    {
        let mut links = locked(&network.links);
        links.retain(|link| !link.ended.load(SeqCst));
        links.push(Arc::clone(&link));
    }
    thread::scope(|scope| {
        scope.spawn(|| link.pump(network, &link.client, &link.server));
        link.pump(network, &link.server, &link.client);
    });
    Ok(())
}

impl Link {
    /// Forwards data until an end closes or a fault ends the connection.
    fn pump(&self, network: &Network, mut from: &TcpStream, mut to: &TcpStream) {
        let mut buffer = [0; 1 << 16];
        while !self.ended.load(SeqCst) && !network.over.load(SeqCst) {
            let read = match from.read(&mut buffer) {
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) =>
                {
                    continue;
                }
                Ok(read) => read,
                Err(_) => 0,
            };
            network.pause(*locked(&network.data_delay));
            network.keep_silence();
            if self.ended.load(SeqCst) {
                return;
            }
            let to_client = std::ptr::eq(to, &self.client);
            if read > 0 && self.asked.swap(!to_client, SeqCst) && to_client {
                network.answers.fetch_add(1, SeqCst);
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

impl Network {
    fn keep_silence(&self) {
        while self.silent.load(SeqCst) && !self.over.load(SeqCst) {
            thread::sleep(POLL_INTERVAL);
        }
    }

    fn pause(&self, delay: Duration) {
        let mut left = delay;
        while !left.is_zero() && !self.over.load(SeqCst) {
            let step = left.min(POLL_INTERVAL);
            thread::sleep(step);
            left -= step;
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic while it is locked does not leave it inconsistent.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
