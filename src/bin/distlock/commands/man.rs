//! `distlock man`: the manual pages.

use std::path::PathBuf;

use clap_mangen::Man;

use crate::exit::{Exit, Failure};
use crate::output::print;

#[derive(clap::Args, Debug)]
pub(crate) struct Options {
    /// Write the pages of all commands into this folder.
    #[arg(long, value_name = "FOLDER")]
    into: Option<PathBuf>,
}

pub(crate) fn run(options: &Options, command: clap::Command) -> Result<Exit, Failure> {
    match &options.into {
        Some(folder) => clap_mangen::generate_to(command, folder)
            .map_err(|error| Failure::own(&folder.display().to_string(), error))?,
        None => {
            let mut page = Vec::new();
            Man::new(command)
                .render(&mut page)
                .map_err(|error| Failure::own("the page", error))?;
            print(&String::from_utf8_lossy(&page))?;
        }
    }
    Ok(Exit::SUCCESS)
}
