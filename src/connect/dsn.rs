//! Connection strings, parsed as libpq parses them; a service file and the environment supply
//! what they leave out.
//!
//! The driver's parser is used for neither form. It knows few of libpq's keywords, and if
//! `host`, `hostaddr` or `port` is given twice it appends the second list to the first, where
//! libpq replaces it.
//!
//! No error shows a value: in a string with a missing quote any part may be of the password.

use std::collections::BTreeMap;
use std::ffi::OsString;

use crate::error::Error;

mod keyword;
mod pairs;
pub(crate) mod passfile;
mod service;
mod url;

use keyword::{KEYWORDS, Keyword};

const MALFORMED: &str = "the connection string cannot be read: it is neither `key=value` pairs \
     nor a postgres:// URL";

/// Looks up an environment variable.
pub(crate) type Environment<'a> = &'a dyn Fn(&str) -> Option<OsString>;

/// Where a value comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    ConnectionString,
    ServiceFile,
    Environment,
}

/// A parameter's value; empty only inside of [`Parameters`].
pub(crate) struct Value {
    keyword: &'static Keyword,
    pub(crate) text: String,
    pub(crate) origin: Origin,
}

impl Value {
    /// The error of a value that is not accepted.
    pub(crate) fn refused(&self, why: &str) -> Error {
        let Keyword { name, variable, .. } = self.keyword;
        Error::config(match (self.origin, variable) {
            (Origin::ConnectionString, _) => {
                format!("`{name}` in the connection string is refused: {why}")
            }
            (Origin::ServiceFile, _) => format!("`{name}` in the service file is refused: {why}"),
            (Origin::Environment, variable) => format!(
                "the environment variable {} is refused: {why}",
                variable.unwrap_or(name)
            ),
        })
    }

    /// A whole number, in the range of libpq's.
    pub(crate) fn integer(&self) -> Result<i32, Error> {
        let text = self.text.trim_ascii();
        text.parse()
            .map_err(|_| self.refused("it must be a whole number, below 2^31"))
    }

    /// The one of `choices` that it names.
    pub(crate) fn one_of<T: Copy>(&self, choices: &[(&str, T)]) -> Result<T, Error> {
        let found = choices.iter().find(|(name, _)| *name == self.text);
        found.map(|(_, choice)| *choice).ok_or_else(|| {
            let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
            self.refused(&format!("it must be one of {}", names.join(", ")))
        })
    }
}

/// The values of `sslmode` and `sslrootcert`.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct TlsParameters {
    pub(crate) sslmode: Option<String>,
    pub(crate) sslrootcert: Option<String>,
}

/// Parameters by their names. An empty one counts as set, so that nothing else sets it, but has
/// no value.
#[derive(Default)]
pub(crate) struct Parameters(BTreeMap<&'static str, Value>);

impl Parameters {
    /// The parameters of `dsn`; of several values for one, the last.
    pub(crate) fn read(dsn: &str) -> Result<Parameters, Error> {
        let mut parameters = Parameters::default();
        if dsn.contains('\0') {
            return Err(Error::config(
                "the connection string must not contain a NUL",
            ));
        }
        match url::without_scheme(dsn) {
            Some(url) => url::read(url, &mut parameters)?,
            None => pairs::read(dsn, &mut parameters)?,
        }
        Ok(parameters)
    }

    /// Sets what is not set yet: from the service that is named, if any, then from the
    /// `environment`, if that is to be read.
    pub(crate) fn fill(&mut self, environment: Option<Environment<'_>>) -> Result<(), Error> {
        service::fill(self, environment)?;
        if let Some(environment) = environment {
            self.fill_from(environment)?;
        }
        Ok(())
    }

    fn fill_from(&mut self, environment: Environment<'_>) -> Result<(), Error> {
        for keyword in KEYWORDS {
            let variable = keyword.variable.and_then(environment);
            let Some(value) = variable.filter(|_| !self.0.contains_key(keyword.name)) else {
                continue;
            };
            let text = value.into_string();
            let (text, is_text) = match text {
                Ok(text) => (text, true),
                Err(_) => (String::new(), false),
            };
            let value = Value {
                keyword,
                text,
                origin: Origin::Environment,
            };
            if !is_text {
                return Err(value.refused("it must be UTF-8 text"));
            }
            self.0.insert(keyword.name, value);
        }
        let requires_tls = environment("PGREQUIRESSL")
            .is_some_and(|value| value.as_encoded_bytes().starts_with(b"1"));
        if requires_tls && !self.0.contains_key("sslmode") {
            self.set("sslmode", "require".to_owned(), Origin::Environment, true)?;
        }
        Ok(())
    }

    /// Fails if a parameter asks for what is not supported.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let given = self.0.values().filter(|value| !value.text.is_empty());
        for value in given {
            if let Some(why) = value.keyword.objection(&value.text) {
                return Err(value.refused(why));
            }
        }
        Ok(())
    }

    /// Removes the parameter, and returns its value if it has one.
    pub(crate) fn take(&mut self, name: &str) -> Option<Value> {
        self.0.remove(name).filter(|value| !value.text.is_empty())
    }

    pub(crate) fn take_text(&mut self, name: &str) -> Option<String> {
        self.take(name).map(|value| value.text)
    }

    pub(crate) fn take_tls(&mut self) -> TlsParameters {
        TlsParameters {
            sslmode: self.take_text("sslmode"),
            sslrootcert: self.take_text("sslrootcert"),
        }
    }

    /// True if the parameter is set, even if to nothing.
    fn is_set(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// Sets the parameter and replaces any value. An unknown `name` is in the error only if it
    /// `may_show`, because it cannot be a part of a password, and looks like a keyword.
    fn set(
        &mut self,
        name: &str,
        text: String,
        origin: Origin,
        may_show: bool,
    ) -> Result<(), Error> {
        // libpq's former name for it.
        let (name, text) = match name {
            "requiressl" if text.starts_with('1') => ("sslmode", "require".to_owned()),
            "requiressl" => ("sslmode", "prefer".to_owned()),
            name => (name, text),
        };
        let Some(keyword) = keyword::find(name) else {
            return Err(unknown(name, may_show));
        };
        let value = Value {
            keyword,
            text,
            origin,
        };
        self.0.insert(keyword.name, value);
        Ok(())
    }
}

/// The longest name that is shown, longer than any keyword's.
const LONGEST_SHOWN: usize = 32;

fn unknown(name: &str, may_show: bool) -> Error {
    let is_like_a_keyword = (1..=LONGEST_SHOWN).contains(&name.len())
        && name.chars().all(|c| c.is_ascii_lowercase() || c == '_');
    if may_show && is_like_a_keyword {
        return Error::config(format!(
            "the connection string has the option `{name}`, which neither libpq nor the driver \
             knows"
        ));
    }
    Error::config(
        "the connection string has an unknown option, not shown here because it may be a part \
         of a password: one with blanks needs quotes, and in a URL one with any of @:/?#%& \
         needs percent-encoding",
    )
}

#[cfg(test)]
mod tests;
