//! `distlock completions`: for a shell's completion of arguments.

use clap_complete::Shell;

use crate::exit::{Exit, Failure};
use crate::output::print;

#[derive(clap::Args, Debug)]
pub(crate) struct Options {
    /// The shell.
    shell: Shell,
}

pub(crate) fn run(options: &Options, mut command: clap::Command) -> Result<Exit, Failure> {
    let name = command.get_name().to_owned();
    let mut script = Vec::new();
    clap_complete::generate(options.shell, &mut command, name, &mut script);
    print(&String::from_utf8_lossy(&script))?;
    Ok(Exit::SUCCESS)
}
