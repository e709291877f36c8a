//! What a connection string says about TLS, which the driver's parser does not know in
//! full: read here, and taken out of what the driver gets.
//!
//! Both forms are read just as the driver reads them. Where a string is malformed
//! nothing is taken out of the rest, and the driver says what is wrong.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

/// The values of `sslmode` and `sslrootcert`; of several the last, as everywhere.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct TlsParameters {
    pub(crate) sslmode: Option<String>,
    pub(crate) sslrootcert: Option<String>,
}

impl TlsParameters {
    /// Takes a parameter that is one of these.
    fn take(&mut self, name: &str, value: impl FnOnce() -> Option<String>) -> bool {
        let place = match name {
            "sslmode" => &mut self.sslmode,
            "sslrootcert" => &mut self.sslrootcert,
            _ => return false,
        };
        let value = value();
        let taken = value.is_some();
        if taken {
            *place = value;
        }
        taken
    }
}

/// `dsn` without its TLS parameters, and those.
pub(crate) fn split(dsn: &str) -> (String, TlsParameters) {
    let mut parameters = TlsParameters::default();
    let is_url = ["postgres://", "postgresql://"]
        .iter()
        .any(|scheme| dsn.starts_with(scheme));
    let rest = match is_url {
        true => split_url(dsn, &mut parameters),
        false => split_pairs(dsn, &mut parameters),
    };
    (rest, parameters)
}

/// `scheme://user:password@hosts/database?name=value&name=value`, percent-encoded.
fn split_url(url: &str, parameters: &mut TlsParameters) -> String {
    // The driver ends the credentials at the first @: a password may have a ? in it.
    let hosts = url.find('@').unwrap_or(0);
    let Some(query) = url[hosts..].find('?').map(|at| hosts + at + 1) else {
        return url.to_owned();
    };
    let decoded = |text| percent_decode_str(text).decode_utf8().ok();
    let kept: Vec<&str> = url[query..]
        .split('&')
        .filter(|pair| {
            let Some((name, value)) = pair.split_once('=') else {
                return true;
            };
            let name = decoded(name).unwrap_or_default();
            !parameters.take(&name, || decoded(value).map(Cow::into_owned))
        })
        .collect();
    url[..query].to_owned() + &kept.join("&")
}

/// `name=value name = 'a \'quoted\' value'`.
fn split_pairs(pairs: &str, parameters: &mut TlsParameters) -> String {
    let mut kept = String::new();
    let mut left = pairs;
    while let Some((name, value, length)) = pair(left) {
        let (pair, after) = left.split_at(length);
        if !parameters.take(name, || Some(value)) {
            kept += pair;
        }
        left = after;
    }
    kept + left
}

/// The first pair of `text`, and its length with the blanks before it; `None` for what
/// is none.
fn pair(text: &str) -> Option<(&str, String, usize)> {
    let start = text.trim_start();
    let name = start
        .split(|c: char| c.is_whitespace() || c == '=')
        .next()?;
    let value = start[name.len()..].trim_start().strip_prefix('=')?;
    let value = value.trim_start();
    let (value, after) = match value.strip_prefix('\'') {
        Some(quoted) => {
            let (value, after) = unescaped(quoted, |c| c == '\'');
            (value, after.strip_prefix('\'')?)
        }
        None => unescaped(value, char::is_whitespace),
    };
    Some((name, value, text.len() - after.len()))
}

/// What comes before the first `end` that no backslash protects, and the rest.
fn unescaped(text: &str, end: impl Fn(char) -> bool) -> (String, &str) {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => value.extend(chars.next().map(|(_, c)| c)),
            c if end(c) => return (value, &text[at..]),
            c => value.push(c),
        }
    }
    (value, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The rest of `dsn`, its sslmode and its sslrootcert.
    fn parts(dsn: &str) -> (String, Option<String>, Option<String>) {
        let (
            rest,
            TlsParameters {
                sslmode,
                sslrootcert,
            },
        ) = split(dsn);
        (rest, sslmode, sslrootcert)
    }

    #[track_caller]
    fn check(dsn: &str, rest: &str, sslmode: Option<&str>, sslrootcert: Option<&str>) {
        let expected = (
            rest.to_owned(),
            sslmode.map(str::to_owned),
            sslrootcert.map(str::to_owned),
        );
        assert_eq!(parts(dsn), expected, "{dsn}");
    }

    #[test]
    fn pairs_are_taken_out_wherever_they_stand() {
        let root = Some("/ca.pem");
        check("host=db", "host=db", None, None);
        check("sslmode=require host=db", " host=db", Some("require"), None);
        check(
            "host=db sslmode=verify-ca",
            "host=db",
            Some("verify-ca"),
            None,
        );
        check("a=1 sslrootcert=/ca.pem b=2", "a=1 b=2", None, root);
        check(
            "a=1\tsslmode = x\nsslrootcert= /ca.pem ",
            "a=1 ",
            Some("x"),
            root,
        );
    }

    #[test]
    fn pairs_are_quoted_as_by_libpq() {
        check(
            "sslrootcert='/my ca.pem' a=1",
            " a=1",
            None,
            Some("/my ca.pem"),
        );
        check(
            r"sslrootcert=/my\ ca.pem a=1",
            " a=1",
            None,
            Some("/my ca.pem"),
        );
        check(r"sslrootcert='\'\\' a=1", " a=1", None, Some(r"'\"));
        check("sslrootcert=''", "", None, Some(""));
        check("sslmode='require'a=1", "a=1", Some("require"), None);
    }

    #[test]
    fn what_only_looks_like_a_parameter_stays() {
        for dsn in [
            "password='x sslmode=disable'",
            r"password=x\ sslmode=disable",
            r"password='\' sslmode=disable'",
            "password= sslmode=disable",
            "SSLMODE=disable",
            "my_sslmode=disable",
            "postgres://app:x?sslmode=disable@db/app",
            "postgres://app@db/sslmode=disable",
            "postgres://app@db/app?options=sslmode=disable",
        ] {
            check(dsn, dsn, None, None);
        }
    }

    #[test]
    fn what_is_malformed_is_left_to_the_driver() {
        for dsn in [
            "",
            " ",
            "=",
            "host",
            "sslmode",
            "sslmode x=require",
            "sslmode='require",
            "host='x sslmode=require",
            "postgres://db?sslmode",
            "postgres://db?sslmode=%ff",
            "mysql://db?sslmode=require",
        ] {
            check(dsn, dsn, None, None);
        }
    }

    #[test]
    fn the_query_of_a_url_is_read_percent_encoded() {
        let full = Some("verify-full");
        check("postgres://db", "postgres://db", None, None);
        check(
            "postgres://db?sslmode=verify-full",
            "postgres://db?",
            full,
            None,
        );
        check(
            "postgresql://u:p?w@db/app?a=1&sslmode=verify-full&b=2",
            "postgresql://u:p?w@db/app?a=1&b=2",
            full,
            None,
        );
        check(
            "postgres://db/app?sslrootcert=%2Fmy%20c%26a.pem&ssl%6Dode=verify-full",
            "postgres://db/app?",
            full,
            Some("/my c&a.pem"),
        );
    }

    #[test]
    fn of_duplicates_the_last_counts() {
        check("sslmode=disable sslmode=require", "", Some("require"), None);
        let url = "postgres://db?sslmode=disable&a=1&sslmode=require";
        check(url, "postgres://db?a=1", Some("require"), None);
    }

    #[test]
    fn the_driver_reads_the_rest() {
        for dsn in [
            "user = 'a b' sslmode=verify-full host=db port=1",
            "postgres://a%20b@db:1/?sslmode=verify-full",
            "postgres://a%20b@db:1?sslmode=verify-full&sslrootcert=system",
        ] {
            let config: postgres::Config = split(dsn).0.parse().unwrap();
            assert_eq!(config.get_user(), Some("a b"));
            assert_eq!(config.get_ports(), [1]);
        }
    }
}
