//! `distlock run` at a terminal: the command is in the foreground, as without us.

use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;

use crate::support::{
    DISTLOCK, children, eventually, is_alive, is_stopped, program, server, waiting,
};

/// A shell with job control at a terminal of its own.
struct Terminal {
    script: Child,
    shown: Arc<Mutex<String>>,
    /// How much of it has been looked at.
    seen: usize,
}

impl Terminal {
    fn open() -> Terminal {
        let mut script = program("script")
            .args([
                "-q",
                "-f",
                "-e",
                "-c",
                "bash --norc --noediting -i",
                "/dev/null",
            ])
            .env("DISTLOCK", DISTLOCK)
            .env("DATABASE_URL", server().url())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let shown = Arc::new(Mutex::new(String::new()));
        let mut output = script.stdout.take().unwrap();
        let write = Arc::clone(&shown);
        thread::spawn(move || {
            let mut bytes = [0; 1024];
            while let Ok(count) = output.read(&mut bytes)
                && count > 0
            {
                let text = String::from_utf8_lossy(&bytes[..count]).into_owned();
                write.lock().unwrap().push_str(&text);
            }
        });
        let mut terminal = Terminal {
            script,
            shown,
            seen: 0,
        };
        // In two parts, so that the echo of this is not taken for a prompt.
        terminal.send("PS1='pro''mpt> '\n");
        terminal.expect("prompt> ");
        terminal
    }

    fn send(&mut self, text: &str) {
        self.script
            .stdin
            .as_ref()
            .unwrap()
            .write_all(text.as_bytes())
            .unwrap();
    }

    /// Waits for `text` in what is shown after the last one.
    #[track_caller]
    fn expect(&mut self, text: &str) {
        let (shown, seen) = (Arc::clone(&self.shown), self.seen);
        let place = || shown.lock().unwrap()[seen..].find(text);
        eventually(|| place().is_some());
        self.seen += place().unwrap() + text.len();
    }

    /// What is shown from there on, up to the line's end.
    fn rest_of_line(&mut self) -> String {
        let begin = self.seen;
        self.expect("\r");
        self.shown.lock().unwrap()[begin..self.seen]
            .trim()
            .to_owned()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        if thread::panicking() {
            writeln!(std::io::stderr(), "{}", self.shown.lock().unwrap()).ok();
        }
        self.script.kill().ok();
        self.script.wait().ok();
    }
}

#[test]
fn the_command_reads_from_the_terminal() {
    let mut terminal = Terminal::open();
    terminal.send("$DISTLOCK run reads -- bash -c 'echo rea\"\"dy; read -r line; echo got $line'; echo code $?\n");
    terminal.expect("ready");
    terminal.send("a line\n");
    terminal.expect("got a line");
    terminal.expect("code 0");
    // The shell, too, reads again.
    terminal.send("echo st''ill here\n");
    terminal.expect("still here");
}

#[test]
fn control_c_interrupts_the_command_and_the_wait() {
    let mut terminal = Terminal::open();
    terminal.send("$DISTLOCK run interrupts -- bash -c 'trap \"echo trap\"\"ped; exit 9\" INT; echo rea\"\"dy; while :; do sleep 0.01; done'; echo code $?\n");
    terminal.expect("ready");
    terminal.send("\x03");
    terminal.expect("trapped");
    terminal.expect("code 9");
    // One that waits.
    terminal.send("$DISTLOCK run interrupts -- sh -c 'echo he\"\"ld; exec sleep 600' &\n");
    terminal.expect("held");
    // The prompt may have come before or after that.
    terminal.send("echo sh''ell\n");
    terminal.expect("shell");
    terminal.expect("prompt> ");
    terminal.send("$DISTLOCK run interrupts -- true\n");
    let mut client = server().client();
    eventually(|| waiting(&mut client) > 0);
    terminal.send("\x03");
    // The shell leaves out what follows, as after any command that ^C has ended.
    terminal.expect("prompt> ");
    terminal.send("echo co''de $?\n");
    terminal.expect("code 130");
    terminal.send("kill %1; wait %1; echo code $?\n");
    terminal.expect("code 143");
}

/// A signal that the kernel sends, but not the terminal.
#[test]
fn an_alarm_is_passed_on() {
    let mut terminal = Terminal::open();
    terminal
        .send("perl -e 'alarm 1; exec @ARGV' $DISTLOCK run alarms -- sleep 600; echo code $?\n");
    terminal.expect("code 142");
}

#[test]
fn a_job_is_stopped_and_goes_on_in_the_foreground_and_in_the_background() {
    let mut terminal = Terminal::open();
    terminal.send("$DISTLOCK run --lease 600s stops -- bash -c 'echo rea\"\"dy $$; while read -r line; do echo got $line; done'\n");
    terminal.expect("ready ");
    let reader = terminal.rest_of_line();
    for round in 0..3 {
        terminal.send("\x1a");
        terminal.expect("Stopped");
        terminal.expect("prompt> ");
        // The shell speaks of its own child, while this one may still be about to read a line.
        eventually(|| is_stopped(&reader));
        terminal.send(&format!("echo sh''ell {round}\n"));
        terminal.expect(&format!("shell {round}"));
        terminal.send("fg\n");
        terminal.expect("run --lease");
        terminal.send(&format!("line {round}\n"));
        terminal.expect(&format!("got line {round}"));
    }
    terminal.send("\x04");
    terminal.expect("prompt> ");
    // In the background it runs, and stops when it reads.
    terminal.send("$DISTLOCK run --lease 600s stops -- bash -c 'echo rea\"\"dy; sleep 0.3; echo awa\"\"ke; read -r line; echo got $line'; echo code $?\n");
    terminal.expect("ready");
    terminal.send("\x1a");
    terminal.expect("Stopped");
    terminal.send("bg\n");
    terminal.expect("awake");
    terminal.send("fg\n");
    terminal.send("at last\n");
    terminal.expect("got at last");
}

/// The others of a pipeline have the terminal, too.
#[test]
fn it_may_be_in_a_pipeline() {
    let mut terminal = Terminal::open();
    terminal.send(
        "$DISTLOCK run pipe -- sh -c 'echo pi\"\"ped; cat' </dev/null | { read -r a; echo rea\"\"dy; read -r b </dev/tty; echo $a $b; }\n",
    );
    terminal.expect("ready");
    terminal.send("typed\n");
    terminal.expect("piped typed");
    terminal.expect("prompt> ");
}

#[test]
fn control_c_ends_the_loop_around_it() {
    let mut terminal = Terminal::open();
    terminal.send(
        "for n in 1 2 3; do $DISTLOCK run loop -- sh -c 'echo rou\"\"nd; exec sleep 600'; done\n",
    );
    terminal.expect("round");
    terminal.send("\x03");
    terminal.expect("prompt> ");
    assert!(!terminal.shown.lock().unwrap()[terminal.seen..].contains("round"));
    terminal.send("echo ov''er\n");
    terminal.expect("over");
}

/// A job in the background of a script leaves the terminal to the script.
#[test]
fn a_script_reads_from_the_terminal_meanwhile() {
    let mut terminal = Terminal::open();
    terminal.send("bash -c '$DISTLOCK run script -- sleep 0.3 & echo rea\"\"dy; read -r line; echo got $line; wait'\n");
    terminal.expect("ready");
    terminal.send("a line\n");
    terminal.expect("got a line");
    terminal.expect("prompt> ");
}

/// The kernel tells that only the first process of the session, as `ssh -t` starts it.
#[test]
fn a_terminal_that_hangs_up_ends_the_command() {
    for is_stopped_before in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let record = folder.path().join("record");
        let mut script = program("script")
            .args(["-q", "-c", "exec $DISTLOCK run --lease 600s hangs-up -- sh -c 'echo $$ >$RECORD.new; mv $RECORD.new $RECORD; exec sleep 600'", "/dev/null"])
            .env("DISTLOCK", DISTLOCK)
            .env("RECORD", &record)
            .env("DATABASE_URL", server().url())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        eventually(|| record.exists());
        let pid = std::fs::read_to_string(record).unwrap();
        let pid = pid.trim();
        if is_stopped_before {
            let mut input = script.stdin.as_ref().unwrap();
            input.write_all(b"\x1a").unwrap();
            eventually(|| is_stopped(pid));
        }
        // The terminal ends with the process that has its other side.
        script.kill().unwrap();
        script.wait().unwrap();
        eventually(|| !is_alive(pid));
    }
    // The lock is given back, too.
    let mgr = distlock::Manager::connect(&server().url()).unwrap();
    mgr.lock("hangs-up").unwrap().unlock().unwrap();
}

#[test]
fn the_window_is_resized() {
    let mut terminal = Terminal::open();
    terminal.send("$DISTLOCK run resized -- bash -c 'trap \"stty size\" WINCH; echo rea\"\"dy; while :; do sleep 0.01; done'\n");
    terminal.expect("ready");
    let pts = pts(&terminal);
    // Again and again: the kernel tells the command itself, but a busy bash may miss it once.
    let shown = Arc::clone(&terminal.shown);
    let mut sizes = ["77", "78"].into_iter().cycle();
    eventually(|| {
        let columns = sizes.next().unwrap();
        let stty = Command::new("stty")
            .args(["-F", &pts, "rows", "33", "cols", columns])
            .status();
        assert!(stty.unwrap().success());
        // `stty` sets one after the other, and the command may see the rows alone before.
        shown.lock().unwrap().contains("33 77")
    });
    terminal.expect("33 77");
    terminal.send("\x03");
    terminal.expect("prompt> ");
}

/// The terminal of the shell that `script` has started.
fn pts(terminal: &Terminal) -> String {
    let children = children(terminal.script.id());
    let shell = children.split_whitespace().next().unwrap();
    let link = std::fs::read_link(format!("/proc/{shell}/fd/0")).unwrap();
    link.display().to_string()
}
