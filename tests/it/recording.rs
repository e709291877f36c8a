//! Records what the whole process logs, the driver included: also what other tests do meanwhile. So a
//! test that records is serial, and so is one that sends a password in a statement.

use std::io;
use std::sync::{Mutex, Once};

use tracing_subscriber::filter::LevelFilter;

static SAID: Mutex<Vec<u8>> = Mutex::new(Vec::new());

/// Records from now on, and discards earlier lines. The worker has a thread of its own, so the
/// recorder is for the whole process, and stays.
pub(crate) fn record() {
    static RECORDING: Once = Once::new();
    RECORDING.call_once(|| {
        tracing_subscriber::fmt()
            .with_max_level(LevelFilter::TRACE)
            .with_ansi(false)
            .without_time()
            .with_writer(|| Recorder)
            .init();
    });
    SAID.lock().unwrap().clear();
}

pub(crate) fn said() -> String {
    String::from_utf8(SAID.lock().unwrap().clone()).unwrap()
}

struct Recorder;

impl io::Write for Recorder {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        SAID.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
