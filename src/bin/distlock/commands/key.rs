//! `distlock key`: the number of a name, without a database.

use distlock::Key;
use serde_json::{Value, json};

use crate::connection::Connection;
use crate::exit::{Exit, Failure};
use crate::keys::{KeyOptions, columns, number};
use crate::output::{self, print};

#[derive(clap::Args, Debug)]
#[command(after_help = "\
SQL is what pg_advisory_lock() takes; CLASSID, OBJID and OBJSUBID are columns of pg_locks.")]
pub(crate) struct Options {
    /// The names of locks.
    #[arg(required = true, id = "NAME", allow_negative_numbers = true)]
    names: Vec<String>,

    #[command(flatten)]
    how: KeyOptions,

    /// The names are those of semaphores, and the key is that of this permit, counted from 1.
    #[arg(long, value_name = "N", conflicts_with_all = ["number", "fnv"],
        value_parser = clap::value_parser!(u32).range(1..=1024))]
    slot: Option<u32>,

    /// Print JSON: an array on one line.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(connection: &Connection, options: &Options) -> Result<Exit, Failure> {
    let key = |name: &String| {
        let key = match options.slot {
            Some(slot) => Key::slot(name, slot),
            None => options.how.key(name)?,
        };
        Ok(match connection.namespace() {
            Some(namespace) => key.in_namespace(namespace),
            None => key,
        })
    };
    let keys: Vec<Key> = options
        .names
        .iter()
        .map(key)
        .collect::<Result<_, Failure>>()?;
    let named = options.names.iter().zip(keys);
    let text = match options.json {
        true => output::json(&named.map(|(name, key)| as_json(name, key)).collect()),
        false => output::table(
            ["NUMBER", "CLASSID", "OBJID", "OBJSUBID", "SQL", "NAME"],
            named.map(|(name, key)| row(name, key)),
        ),
    };
    print(&text)?;
    Ok(Exit::SUCCESS)
}

fn row(name: &str, key: Key) -> [String; 6] {
    let (classid, objid, objsubid) = columns(key);
    [
        number(key),
        classid.to_string(),
        objid.to_string(),
        objsubid.to_string(),
        key.sql(),
        name.to_owned(),
    ]
}

fn as_json(name: &str, key: Key) -> Value {
    let (classid, objid, objsubid) = columns(key);
    json!({
        "name": name,
        "key": number(key),
        "sql": key.sql(),
        "classid": classid,
        "objid": objid,
        "objsubid": objsubid,
    })
}
