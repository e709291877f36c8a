//! stub

#[derive(clap::Args, Debug)]
pub(crate) struct RunOptions {}
