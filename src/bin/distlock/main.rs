//! `distlock`, the command: runs programs under a lock that all machines share, and tells who has
//! which lock. `docs/command.md` describes it.
//!
//! ```text
//!   shell, cron, systemd
//!     └─ distlock run          supervisor: the manager, the lock, the signals
//!          └─ distlock         guardian: ends the command in time, whatever happens to the supervisor
//!               └─ CMD
//! ```

mod cli;
mod clock;
mod commands;
mod connection;
mod duration;
mod exit;
mod guardian;
mod holder;
mod keys;
mod messages;
mod orphans;
mod output;
mod run;
mod signals;

use std::env;
use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use self::cli::{Cli, Command};
use self::exit::Exit;

fn main() -> ExitCode {
    let mut args = env::args_os().skip(1);
    match args.next() {
        Some(first) if first == guardian::GUARD => return guardian::guard(args),
        Some(first) if first == guardian::EXEC => return guardian::exec(args),
        Some(first) if first == commands::doctor::SILENT => return commands::doctor::silent(),
        _ => {}
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version go to standard output and are no errors.
            let code = if error.use_stderr() {
                Exit::USAGE
            } else {
                Exit::SUCCESS
            };
            error.print().ok();
            return code.into();
        }
    };
    messages::init(cli.verbosity.level());
    let connection = &cli.connection;
    let done = match cli.command {
        Command::Run(options) => run::run(connection, &options),
        Command::Hold(options) => commands::hold::run(connection, &options),
        Command::Status(options) => commands::status::run(connection, &options),
        Command::Wait(options) => commands::wait::run(connection, &options),
        Command::List(options) => commands::list::run(connection, &options),
        Command::Holders(options) => commands::holders::run(connection, &options),
        Command::Evict(options) => commands::evict::run(connection, &options),
        Command::Key(options) => commands::key::run(connection, &options),
        Command::Doctor => commands::doctor::run(connection),
        Command::Completions(options) => commands::completions::run(&options, Cli::command()),
        Command::Man(options) => commands::man::run(&options, Cli::command()),
    };
    match done {
        Ok(exit) => exit.into(),
        Err(failure) => {
            messages::error(&failure);
            failure.exit.into()
        }
    }
}
