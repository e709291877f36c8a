//! The keywords of connection strings: all that libpq has up to PostgreSQL 18, and how each is
//! treated here.

/// A parameter that a connection string may have.
#[derive(Debug)]
pub(crate) struct Keyword {
    pub(crate) name: &'static str,
    /// The environment variable that supplies its default.
    pub(crate) variable: Option<&'static str>,
    pub(super) role: Role,
}

/// How a parameter is treated. One whose effect is not supported is refused, with the reason:
/// the connection would not be the one that was asked for.
#[derive(Debug)]
pub(super) enum Role {
    Used,
    /// Without effect here, for any value.
    Ignored,
    /// Accepted with one of these values, which ask only for what holds anyway; otherwise refused
    /// with the reason.
    Only(&'static [&'static str], &'static str),
    Refused(&'static str),
}

use Role::{Ignored, Only, Refused, Used};

const CLIENT_CERTIFICATE: &str =
    "client certificates are for a connector of your own, given with Builder::tls";
const REVOCATION: &str = "certificates are not checked for revocation; a connector of your own, \
     given with Builder::tls, can do it";
const SCRAM_KEYS: &str = "the driver logs in with the password itself: give that";
const OAUTH: &str = "the driver does not support OAuth: the role needs another authentication \
     method, such as a password";

const fn keyword(name: &'static str, variable: &'static str, role: Role) -> Keyword {
    Keyword {
        name,
        variable: Some(variable),
        role,
    }
}

const fn plain(name: &'static str, role: Role) -> Keyword {
    Keyword {
        name,
        variable: None,
        role,
    }
}

pub(crate) static KEYWORDS: &[Keyword] = &[
    keyword("application_name", "PGAPPNAME", Used),
    keyword("channel_binding", "PGCHANNELBINDING", Used),
    keyword(
        "client_encoding",
        "PGCLIENTENCODING",
        Only(
            &["utf8", "utf-8", "unicode", "auto"],
            "the driver always uses UTF8: leave it out",
        ),
    ),
    keyword("connect_timeout", "PGCONNECT_TIMEOUT", Used),
    keyword("dbname", "PGDATABASE", Used),
    plain("fallback_application_name", Used),
    keyword("gssdelegation", "PGGSSDELEGATION", Ignored),
    keyword(
        "gssencmode",
        "PGGSSENCMODE",
        Only(
            &["disable", "prefer"],
            "the driver does not support GSSAPI: it must be disable or prefer; encrypt with \
             sslmode",
        ),
    ),
    keyword("gsslib", "PGGSSLIB", Ignored),
    keyword("host", "PGHOST", Used),
    keyword("hostaddr", "PGHOSTADDR", Used),
    plain("keepalives", Used),
    plain("keepalives_count", Used),
    plain("keepalives_idle", Used),
    plain("keepalives_interval", Used),
    keyword("krbsrvname", "PGKRBSRVNAME", Ignored),
    keyword("load_balance_hosts", "PGLOADBALANCEHOSTS", Used),
    keyword(
        "max_protocol_version",
        "PGMAXPROTOCOLVERSION",
        Only(
            &["3.0", "3.2", "latest"],
            "it must be 3.0, 3.2 or latest; the driver uses 3.0",
        ),
    ),
    keyword(
        "min_protocol_version",
        "PGMINPROTOCOLVERSION",
        Only(&["3.0"], "the driver supports version 3.0 only"),
    ),
    plain("oauth_ca_file", Refused(OAUTH)),
    plain("oauth_client_id", Refused(OAUTH)),
    plain("oauth_client_secret", Refused(OAUTH)),
    plain("oauth_issuer", Refused(OAUTH)),
    plain("oauth_scope", Refused(OAUTH)),
    keyword("options", "PGOPTIONS", Used),
    keyword("passfile", "PGPASSFILE", Used),
    keyword("password", "PGPASSWORD", Used),
    keyword("port", "PGPORT", Used),
    plain(
        "replication",
        Only(
            &["false", "off", "no", "0"],
            "a replication connection runs no lock functions: leave it out",
        ),
    ),
    keyword(
        "require_auth",
        "PGREQUIREAUTH",
        Refused(
            "the driver cannot restrict the authentication methods: leave it out and verify the \
             server with sslmode=verify-full",
        ),
    ),
    keyword(
        "requirepeer",
        "PGREQUIREPEER",
        Refused(
            "the owner of the process behind a unix socket is not checked: leave it out and put \
             the socket in a folder that only the server's user may write to",
        ),
    ),
    plain("scram_client_key", Refused(SCRAM_KEYS)),
    plain("scram_server_key", Refused(SCRAM_KEYS)),
    keyword("service", "PGSERVICE", Used),
    keyword("servicefile", "PGSERVICEFILE", Used),
    keyword(
        "ssl_max_protocol_version",
        "PGSSLMAXPROTOCOLVERSION",
        Only(
            &["tlsv1.3"],
            "a maximum below TLSv1.3 is not supported: leave it out",
        ),
    ),
    keyword(
        "ssl_min_protocol_version",
        "PGSSLMINPROTOCOLVERSION",
        Only(
            &["tlsv1", "tlsv1.1", "tlsv1.2"],
            "it must be TLSv1.2 or below, and TLSv1.2 is the minimum in any case: for a higher \
             one, give a connector of your own with Builder::tls",
        ),
    ),
    keyword("sslcert", "PGSSLCERT", Refused(CLIENT_CERTIFICATE)),
    keyword(
        "sslcertmode",
        "PGSSLCERTMODE",
        Only(&["disable", "allow"], CLIENT_CERTIFICATE),
    ),
    keyword("sslcompression", "PGSSLCOMPRESSION", Ignored),
    keyword("sslcrl", "PGSSLCRL", Refused(REVOCATION)),
    keyword("sslcrldir", "PGSSLCRLDIR", Refused(REVOCATION)),
    keyword("sslkey", "PGSSLKEY", Refused(CLIENT_CERTIFICATE)),
    plain(
        "sslkeylogfile",
        Refused("session keys are not logged: leave it out"),
    ),
    keyword("sslmode", "PGSSLMODE", Used),
    keyword("sslnegotiation", "PGSSLNEGOTIATION", Used),
    plain("sslpassword", Refused(CLIENT_CERTIFICATE)),
    keyword("sslrootcert", "PGSSLROOTCERT", Used),
    keyword(
        "sslsni",
        "PGSSLSNI",
        Only(
            &["1"],
            "the server's name is always sent: to leave it out give a connector of your own \
             with Builder::tls",
        ),
    ),
    keyword("target_session_attrs", "PGTARGETSESSIONATTRS", Used),
    plain("tcp_user_timeout", Used),
    keyword("user", "PGUSER", Used),
];

/// The keyword with this name, or with the driver's alternative name.
pub(super) fn find(name: &str) -> Option<&'static Keyword> {
    let name = match name {
        "keepalives_retries" => "keepalives_count",
        name => name,
    };
    KEYWORDS.iter().find(|keyword| keyword.name == name)
}

impl Keyword {
    /// Why `value` is refused, if it is.
    pub(super) fn objection(&self, value: &str) -> Option<&'static str> {
        match &self.role {
            Used | Ignored => None,
            Only(taken, why) => {
                let is_taken = taken.iter().any(|taken| taken.eq_ignore_ascii_case(value));
                (!is_taken).then_some(*why)
            }
            Refused(why) => Some(why),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As in "Parameter Key Words" of PostgreSQL 18's documentation, with those of older and
    /// newer versions.
    const LIBPQ: &str = "host hostaddr port dbname user password passfile require_auth \
        channel_binding connect_timeout client_encoding options application_name \
        fallback_application_name keepalives keepalives_idle keepalives_interval \
        keepalives_count tcp_user_timeout replication gssencmode sslmode sslnegotiation \
        sslcompression sslcert sslkey sslkeylogfile sslpassword sslcertmode sslrootcert sslcrl \
        sslcrldir sslsni requirepeer ssl_min_protocol_version ssl_max_protocol_version \
        min_protocol_version max_protocol_version krbsrvname gsslib gssdelegation \
        scram_client_key scram_server_key service servicefile target_session_attrs \
        load_balance_hosts oauth_issuer oauth_client_id oauth_client_secret oauth_scope \
        oauth_ca_file";

    #[test]
    fn every_keyword_of_libpq_is_known() {
        let mut names: Vec<&str> = LIBPQ.split_whitespace().collect();
        names.sort_unstable();
        let known: Vec<&str> = KEYWORDS.iter().map(|keyword| keyword.name).collect();
        assert_eq!(known, names);
    }

    #[test]
    fn a_parameter_that_asks_for_nothing_new_is_taken() {
        for (name, taken, refused) in [
            ("client_encoding", "UTF8", "latin1"),
            ("gssencmode", "prefer", "require"),
            ("replication", "off", "database"),
            ("sslsni", "1", "0"),
            ("ssl_min_protocol_version", "TLSv1.2", "TLSv1.3"),
            ("ssl_max_protocol_version", "TLSv1.3", "TLSv1.2"),
            ("sslcertmode", "allow", "require"),
            ("max_protocol_version", "latest", "2.0"),
            ("min_protocol_version", "3.0", "3.2"),
        ] {
            let keyword = find(name).unwrap();
            assert_eq!(keyword.objection(taken), None, "{name}");
            assert!(keyword.objection(refused).is_some(), "{name}");
        }
    }
}
