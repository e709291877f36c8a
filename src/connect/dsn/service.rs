//! Service files: named sets of connection parameters that programs share.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::{Environment, Origin, Parameters, keyword};
use crate::error::Error;

/// Where the system-wide file is, unless `PGSYSCONFDIR` is set: in the first of these folders
/// that has it. Debian's libpq uses the first, one built with its defaults the second.
const SYSTEM_FOLDERS: [&str; 2] = ["/etc/postgresql-common", "/usr/local/pgsql/etc"];

/// Sets what is not set yet from the service that `parameters` or the environment name, if any.
pub(super) fn fill(
    parameters: &mut Parameters,
    environment: Option<Environment<'_>>,
) -> Result<(), Error> {
    let variable = |name: &str| {
        let value = environment.and_then(|environment| environment(name));
        value.filter(|value| !value.is_empty())
    };
    let service = match parameters.is_set("service") {
        true => parameters.take_text("service").map(OsString::from),
        false => variable("PGSERVICE"),
    };
    let Some(service) = service else {
        return Ok(());
    };
    let named = parameters.take_text("servicefile").map(PathBuf::from);
    let named = named.or_else(|| variable("PGSERVICEFILE").map(PathBuf::from));
    let system = variable("PGSYSCONFDIR").map(PathBuf::from);
    let undefined = || Error::config("the service that is named is not in a service file");
    let service = service.to_str().ok_or_else(undefined)?;
    for file in files(named, system) {
        if apply(&read(&file)?, service, parameters)? {
            return Ok(());
        }
    }
    Err(undefined())
}

/// The files to read: the one that is `named`, or else the user's, then the system's.
fn files(named: Option<PathBuf>, system: Option<PathBuf>) -> Vec<PathBuf> {
    let home = env::home_dir().filter(|home| !home.as_os_str().is_empty());
    let own = home.map(|home| home.join(".pg_service.conf"));
    let folders = match system {
        Some(folder) => vec![folder],
        None => SYSTEM_FOLDERS.map(PathBuf::from).to_vec(),
    };
    let system = folders
        .iter()
        .map(|folder| folder.join("pg_service.conf"))
        .find(|file| file.exists());
    let own = named.or(own.filter(|file| file.exists()));
    own.into_iter().chain(system).collect()
}

fn read(file: &Path) -> Result<String, Error> {
    fs::read_to_string(file).map_err(|error: io::Error| {
        Error::config("the service file cannot be read").caused_by(error)
    })
}

/// Sets what is not set yet from the lines of `service` in `file`; false if it has none.
fn apply(file: &str, service: &str, parameters: &mut Parameters) -> Result<bool, Error> {
    let mut lines = file.lines().map(str::trim_ascii);
    let is_heading = |line: &str| {
        line.strip_prefix('[')
            .and_then(|line| line.strip_prefix(service))
            .is_some_and(|line| line.starts_with(']'))
    };
    if !lines.any(is_heading) {
        return Ok(false);
    }
    let malformed = |what: &str| Error::config(format!("the service file has {what}"));
    for line in lines.take_while(|line| !line.starts_with('[')) {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (name, value) = line
            .split_once('=')
            .ok_or_else(|| malformed("a line that is not `name=value`"))?;
        let known = keyword::find(name)
            .filter(|known| known.name != "service")
            .ok_or_else(|| malformed("a line whose name is not a keyword of services"))?;
        if !parameters.is_set(known.name) {
            parameters.set(name, value.to_owned(), Origin::ServiceFile, false)?;
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "# for all\n\
        [one]\n host=a\nport=1\r\nhost=b\n\n# more\npassword= x=y \n\
        [two] or more\nhost=c\n[bad]\nhost\n[nested]\nservice=one\n[spaced]\nhost = a\n\
        [unknown]\ncolour=blue\n";

    fn filled(dsn: &str, service: &str) -> Result<Option<Parameters>, Error> {
        let mut parameters = Parameters::read(dsn)?;
        Ok(apply(FILE, service, &mut parameters)?.then_some(parameters))
    }

    #[test]
    fn a_service_sets_what_the_connection_string_does_not() {
        let mut parameters = filled("port=7", "one").unwrap().unwrap();
        // Of two values the first counts, unlike in a connection string.
        assert_eq!(parameters.take_text("host").as_deref(), Some("a"));
        assert_eq!(parameters.take_text("port").as_deref(), Some("7"));
        assert_eq!(parameters.take_text("password").as_deref(), Some(" x=y"));
        let mut parameters = filled("host=''", "two").unwrap().unwrap();
        assert_eq!(parameters.take_text("host"), None);
        assert!(filled("", "three").unwrap().is_none());
    }

    #[test]
    fn a_malformed_service_is_an_error() {
        for service in ["bad", "nested", "spaced", "unknown"] {
            assert!(filled("", service).is_err(), "{service}");
        }
    }
}
