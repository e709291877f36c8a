//! Where the servers are: combines the lists of hosts, addresses and ports.

use std::net::IpAddr;
#[cfg(unix)]
use std::path::Path;

use postgres::config::Host;

use crate::connect::dsn::{Parameters, Value};
use crate::error::Error;

const DEFAULT_PORT: u16 = 5432;

/// The default host's name in password files.
const LOCALHOST: &str = "localhost";

/// One address to try, and the password for it.
#[derive(Clone, Debug)]
pub(crate) struct Endpoint {
    /// The address as text, if no name was given.
    pub(crate) host: Host,
    pub(crate) address: Option<IpAddr>,
    pub(crate) port: u16,
    pub(crate) password: Option<Vec<u8>>,
}

impl Endpoint {
    /// Its name in password files.
    pub(super) fn name(&self) -> String {
        match &self.host {
            host if *host == default_host() => LOCALHOST.to_owned(),
            Host::Tcp(name) => name.clone(),
            #[cfg(unix)]
            Host::Unix(folder) => folder.display().to_string(),
        }
    }

    /// Adds it to `config`, without the password.
    pub(super) fn add_to(&self, config: &mut postgres::Config) {
        match &self.host {
            Host::Tcp(name) => config.host(name),
            #[cfg(unix)]
            Host::Unix(folder) => config.host_path(folder),
        };
        if let Some(address) = self.address {
            config.hostaddr(address);
        }
        config.port(self.port);
    }
}

/// libpq's default: a unix socket in the folder of Debian's and most other packages, or, if
/// that folder does not exist, in `/tmp`, the default of PostgreSQL itself. Any user may write
/// to `/tmp`, so it is not tried where only the socket is missing.
#[cfg(unix)]
pub(super) fn default_host() -> Host {
    let packaged = Path::new("/var/run/postgresql");
    let folder = match packaged.is_dir() {
        true => packaged,
        false => Path::new("/tmp"),
    };
    Host::Unix(folder.to_owned())
}

#[cfg(not(unix))]
pub(super) fn default_host() -> Host {
    Host::Tcp(LOCALHOST.to_owned())
}

/// The lists, whose elements may be empty.
#[derive(Default)]
pub(super) struct Lists {
    hosts: Vec<Option<Host>>,
    addresses: Vec<Option<IpAddr>>,
    ports: Vec<u16>,
}

impl Lists {
    /// The lists of `config`, and those of `parameters` for what `config` lacks.
    pub(super) fn new(
        config: &postgres::Config,
        parameters: &mut Parameters,
    ) -> Result<Lists, Error> {
        let mut lists = Lists::default();
        let (host, address) = (parameters.take("host"), parameters.take("hostaddr"));
        let port = parameters.take("port");
        lists.hosts = config.get_hosts().iter().cloned().map(Some).collect();
        lists.addresses = config.get_hostaddrs().iter().copied().map(Some).collect();
        lists.ports = config.get_ports().to_vec();
        if lists.hosts.is_empty() {
            lists.hosts = elements(host, self::host)?;
        }
        if lists.addresses.is_empty() {
            lists.addresses = elements(address, self::address)?;
        }
        if lists.ports.is_empty() {
            lists.ports = elements(port, self::port)?;
        }
        Ok(lists)
    }

    pub(super) fn endpoints(self) -> Result<Vec<Endpoint>, Error> {
        let (hosts, addresses) = (self.hosts.len(), self.addresses.len());
        if hosts.min(addresses) > 0 && hosts != addresses {
            return Err(Error::config(
                "there must be as many hostaddrs as hosts, or none",
            ));
        }
        let all = hosts.max(addresses).max(1);
        if self.ports.len() > 1 && self.ports.len() != all {
            return Err(Error::config(
                "there must be one port, as many as hosts, or none",
            ));
        }
        let endpoint = |n: usize| {
            let address = self.addresses.get(n).copied().flatten();
            let named = self.hosts.get(n).cloned().flatten();
            let numbered = || address.map(|address| Host::Tcp(address.to_string()));
            let port = self.ports.get(n).or(self.ports.first());
            Endpoint {
                host: named.or_else(numbered).unwrap_or_else(default_host),
                address,
                port: port.copied().unwrap_or(DEFAULT_PORT),
                password: None,
            }
        };
        Ok((0..all).map(endpoint).collect())
    }
}

fn elements<T>(
    list: Option<Value>,
    element: impl Fn(&str, &Value) -> Result<T, Error>,
) -> Result<Vec<T>, Error> {
    list.map_or(Ok(Vec::new()), |list| {
        let texts = list.text.split(',');
        texts.map(|text| element(text, &list)).collect()
    })
}

fn host(text: &str, list: &Value) -> Result<Option<Host>, Error> {
    match text {
        "" => Ok(None),
        name if name.starts_with('@') => {
            Err(list.refused("the driver cannot connect to sockets in the abstract namespace"))
        }
        #[cfg(unix)]
        folder if folder.starts_with('/') => Ok(Some(Host::Unix(folder.into()))),
        name => Ok(Some(Host::Tcp(name.to_owned()))),
    }
}

fn address(text: &str, list: &Value) -> Result<Option<IpAddr>, Error> {
    match text {
        "" => Ok(None),
        text => {
            let address = text.parse();
            let why = "it must be IP addresses, without a scope; names belong in `host`";
            Ok(Some(address.map_err(|_| list.refused(why))?))
        }
    }
}

fn port(text: &str, list: &Value) -> Result<u16, Error> {
    match text.trim_ascii() {
        "" => Ok(DEFAULT_PORT),
        text => {
            let port = text.parse().ok().filter(|port| *port > 0);
            port.ok_or_else(|| list.refused("a port is a number from 1 to 65535"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoints(dsn: &str) -> Result<Vec<Endpoint>, Error> {
        let mut parameters = Parameters::read(dsn)?;
        Lists::new(&postgres::Config::new(), &mut parameters)?.endpoints()
    }

    /// The endpoints of `dsn`, as text.
    fn shown(dsn: &str) -> Vec<String> {
        let shown = |endpoint: &Endpoint| {
            let address = endpoint.address.map(|address| format!("={address}"));
            let (name, port) = (endpoint.name(), endpoint.port);
            format!("{name}{}:{port}", address.unwrap_or_default())
        };
        endpoints(dsn).unwrap().iter().map(shown).collect()
    }

    #[test]
    fn lists_may_have_gaps() {
        assert_eq!(shown("host=a,b port=7"), ["a:7", "b:7"]);
        assert_eq!(shown("host=a,b port=,7"), ["a:5432", "b:7"]);
        assert_eq!(shown("host=,b"), ["localhost:5432", "b:5432"]);
        assert_eq!(shown("host=a,b hostaddr=,::1"), ["a:5432", "b=::1:5432"]);
        assert_eq!(shown("hostaddr=::1"), ["::1=::1:5432"]);
        assert_eq!(shown("host='' port=' 7 '"), ["localhost:7"]);
        assert_eq!(shown("port=7"), ["localhost:7"]);
    }

    #[test]
    fn lists_of_different_lengths_are_refused() {
        for dsn in [
            "host=a,b hostaddr=::1",
            "host=a hostaddr=::1,",
            "host=a port=1,2",
            "port=1,2",
            "host=a,b,c port=1,2",
        ] {
            assert!(endpoints(dsn).is_err(), "{dsn}");
        }
    }

    #[test]
    fn what_is_no_address_or_port_is_refused() {
        for dsn in [
            "hostaddr=localhost",
            "hostaddr='fe80::1%eth0'",
            "host=@abstract",
            "port=0",
            "port=-1",
            "port=65536",
            "port=http",
        ] {
            assert!(endpoints(dsn).is_err(), "{dsn}");
        }
    }
}
