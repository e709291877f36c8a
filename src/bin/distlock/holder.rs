//! A [`Holder`], as a line, as a row of a table and as JSON.

use std::net::IpAddr;

use distlock::{Claim, Holder};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::keys::{columns, number};
use crate::output;

/// All of them, as a table or as JSON.
pub(crate) fn listing(holders: &[Holder], as_json: bool) -> String {
    if as_json {
        return output::json(&holders.iter().map(json).collect());
    }
    // Last what may have spaces.
    let header = [
        "KEY",
        "CLAIM",
        "MODE",
        "SINCE",
        "PID",
        "MANAGER",
        "ADDRESS",
        "APPLICATION",
    ];
    output::table(header, holders.iter().map(row))
}

/// What is known of the session, on one line.
pub(crate) fn describe(holder: &Holder) -> String {
    let [_, claim, mode, _, pid, manager, address, application] = row(holder);
    let manager = match &*manager {
        "yes" => "a manager",
        _ => "no manager",
    };
    format!("pid {pid} {claim} ({mode}, {manager}, {address}, {application})")
}

fn row(holder: &Holder) -> [String; 8] {
    let is_manager = if holder.is_manager { "yes" } else { "no" };
    [
        number(holder.key),
        claim(holder).to_owned(),
        shown(mode(holder)),
        shown(since(holder)),
        holder.pid.to_string(),
        is_manager.to_owned(),
        shown(address(holder)),
        shown(application(holder)),
    ]
}

fn json(holder: &Holder) -> Value {
    let (classid, objid, objsubid) = columns(holder.key);
    json!({
        // As text: not every reader keeps all digits of a number.
        "key": number(holder.key),
        "classid": classid,
        "objid": objid,
        "objsubid": objsubid,
        "claim": claim(holder),
        "mode": mode(holder),
        "since": since(holder).map(|since| since.to_string()),
        "pid": holder.pid,
        "manager": holder.is_manager,
        "address": address(holder).map(|address| address.to_string()),
        "application": application(holder),
    })
}

/// `-` for what is not known.
fn shown(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

fn claim(holder: &Holder) -> &'static str {
    match holder.claim {
        Claim::Holds => "holds",
        Claim::Waits => "waits",
        Claim::Fenced => "fenced",
        _ => "other",
    }
}

fn mode(holder: &Holder) -> Option<&'static str> {
    let mode = |shared| if shared { "shared" } else { "exclusive" };
    holder.shared.map(mode)
}

fn since(holder: &Holder) -> Option<Timestamp> {
    holder
        .since
        .and_then(|since| Timestamp::try_from(since).ok())
}

fn address(holder: &Holder) -> Option<IpAddr> {
    holder.address
}

fn application(holder: &Holder) -> Option<&str> {
    // The server has an empty text for a session without a name.
    holder
        .application_name
        .as_deref()
        .filter(|name| !name.is_empty())
}
