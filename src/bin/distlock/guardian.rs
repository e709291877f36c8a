//! stub

use std::ffi::OsString;
use std::process::ExitCode;

pub(crate) const GUARD: &str = "__guard";
pub(crate) const EXEC: &str = "__exec";

pub(crate) fn guard(_args: impl Iterator<Item = OsString>) -> ExitCode {
    ExitCode::SUCCESS
}

pub(crate) fn exec(_args: impl Iterator<Item = OsString>) -> ExitCode {
    ExitCode::SUCCESS
}
