//! The help texts, beside those in `tests/cli/help`. After an intended change:
//!
//! ```sh
//! WRITE_HELP=1 cargo test --features cli --test cli -- help::
//! ```

use std::env;
use std::fs;
use std::path::PathBuf;

use crate::support::{distlock_at, output};

/// The commands whose text is not compared.
const LEFT_OUT: [&str; 1] = ["help"];

#[test]
fn help_texts_are_as_they_were() {
    let all = help(&[]);
    compare("distlock", &all);
    let commands = commands(&all);
    assert!(commands.contains(&"hold"), "{commands:?}");
    for command in commands {
        if !LEFT_OUT.contains(&command) {
            compare(command, &help(&[command]));
        }
    }
}

/// The text for `args`.
fn help(args: &[&str]) -> String {
    let mut command = distlock_at("");
    command
        .args(args)
        .arg("--help")
        .env("COLUMNS", "100")
        .env_remove("DISTLOCK_NAMESPACE");
    let (code, text, _) = output(&mut command);
    assert_eq!(code, 0, "{args:?}");
    text
}

/// The names of the commands in the text about all of them.
fn commands(all: &str) -> Vec<&str> {
    let list = all.split_once("Commands:\n").unwrap().1;
    list.lines()
        .take_while(|line| !line.is_empty())
        .map(|line| line.split_whitespace().next().unwrap())
        .collect()
}

fn compare(name: &str, text: &str) {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/cli/help");
    let path = folder.join(name).with_extension("txt");
    if env::var_os("WRITE_HELP").is_some() {
        fs::create_dir_all(&folder).unwrap();
        fs::write(&path, text).unwrap();
    }
    let before = fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(before, text, "{name}: WRITE_HELP=1 writes it");
}
