//! The form `postgres://user:password@host:port,host:port/database?name=value&name=value`,
//! percent-encoded, parsed in libpq's order.

use percent_encoding::percent_decode_str;

use super::{Origin, Parameters};
use crate::error::Error;

/// What follows the scheme, if `text` is a URL. Blanks around it, such as the newline at
/// the end of a file, are not part of it.
pub(super) fn without_scheme(text: &str) -> Option<&str> {
    let text = text.trim_ascii();
    text.strip_prefix("postgresql://")
        .or_else(|| text.strip_prefix("postgres://"))
}

pub(super) fn read(url: &str, parameters: &mut Parameters) -> Result<(), Error> {
    let mut store = |name, value: &str| match value {
        // Counts as not given, so that defaults apply.
        "" => Ok(()),
        value => parameters.set(name, decoded(value)?, Origin::ConnectionString, true),
    };
    let (login, rest) = match url.find(['@', '/']) {
        Some(at) if url[at..].starts_with('@') => (&url[..at], &url[at + 1..]),
        _ => ("", url),
    };
    let (user, password) = login.split_once(':').unwrap_or((login, ""));
    store("user", user)?;
    store("password", password)?;

    let (hosts, ports, rest) = authority(rest)?;
    store("host", &hosts)?;
    store("port", &ports)?;

    let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
    store("dbname", path.strip_prefix('/').unwrap_or(path))?;
    self::query(query, parameters)
}

/// The hosts and the ports, each separated by commas, and what follows them.
fn authority(text: &str) -> Result<(String, String, &str), Error> {
    let (mut hosts, mut ports) = (String::new(), String::new());
    let mut left = text;
    loop {
        let (host, after) = host(left)?;
        hosts += host;
        left = after;
        if let Some(after) = left.strip_prefix(':') {
            let end = after.find(['/', '?', ',']).unwrap_or(after.len());
            ports += &after[..end];
            left = &after[end..];
        }
        let Some(next) = left.strip_prefix(',') else {
            // Commas alone leave each port to its default.
            return Ok((hosts, ports, left));
        };
        hosts.push(',');
        ports.push(',');
        left = next;
    }
}

/// The host at the start of `text`, and what follows it.
fn host(text: &str) -> Result<(&str, &str), Error> {
    let Some(bracketed) = text.strip_prefix('[') else {
        let end = text.find([':', '/', '?', ',']).unwrap_or(text.len());
        return Ok(text.split_at(end));
    };
    match bracketed.split_once(']') {
        Some((host, after))
            if !host.is_empty()
                && (after.is_empty() || after.starts_with([':', '/', '?', ','])) =>
        {
            Ok((host, after))
        }
        _ => Err(Error::config(
            "the connection string's URL has brackets that do not enclose an IPv6 address",
        )),
    }
}

fn query(query: &str, parameters: &mut Parameters) -> Result<(), Error> {
    // An @ here may end a password that has an unencoded / in it.
    let may_name = !query.contains('@');
    let mut left = query;
    while !left.is_empty() {
        let (pair, after) = left.split_once('&').unwrap_or((left, ""));
        left = after;
        let (name, value) = pair
            .split_once('=')
            .filter(|(_, value)| !value.contains('='))
            .ok_or_else(|| {
                Error::config(
                    "the connection string's URL has a parameter that is not `name=value` (a \
                     further `=` is written %3D)",
                )
            })?;
        let (name, value) = (decoded(name)?, decoded(value)?);
        // As in JDBC.
        let (name, value) = match (&*name, &*value) {
            ("ssl", "true") => ("sslmode", "require".to_owned()),
            _ => (&*name, value),
        };
        parameters.set(name, value, Origin::ConnectionString, may_name)?;
    }
    Ok(())
}

fn decoded(text: &str) -> Result<String, Error> {
    let is_encoded = |after: &str| {
        let digits = after.as_bytes().get(..2);
        digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
    };
    let malformed = || {
        Error::config(
            "the connection string's URL has a % that is not followed by two hexadecimal digits \
             (a % itself is written %25), or does not decode to UTF-8 text",
        )
    };
    if !text.split('%').skip(1).all(is_encoded) {
        return Err(malformed());
    }
    let text = percent_decode_str(text).decode_utf8();
    Ok(text.map_err(|_| malformed())?.into_owned())
}
