//! [`Credentials`]: a user and a password, and the function that supplies them at each login.

use std::error::Error as StdError;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use crate::error::{Error, ErrorKind};

/// A user and a password, for [`Builder::credentials`](crate::Builder::credentials).
///
/// Its `Debug` shows the user and not the password.
///
/// ```
/// let credentials = distlock::Credentials::new("app", "open sesame");
/// assert!(!format!("{credentials:?}").contains("sesame"));
/// ```
#[derive(Clone)]
pub struct Credentials {
    user: String,
    password: String,
}

impl Credentials {
    /// The login of `user`, with `password`.
    pub fn new(user: impl Into<String>, password: impl Into<String>) -> Self {
        Credentials {
            user: user.into(),
            password: password.into(),
        }
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("user", &self.user)
            .finish_non_exhaustive()
    }
}

type AnyError = Box<dyn StdError + Send + Sync>;

/// The user's function.
#[derive(Clone)]
pub(crate) struct Provider(Arc<dyn Fn() -> Result<Credentials, AnyError> + Send + Sync>);

impl Provider {
    pub(crate) fn new<E: Into<AnyError>>(
        credentials: impl Fn() -> Result<Credentials, E> + Send + Sync + 'static,
    ) -> Self {
        Provider(Arc::new(move || credentials().map_err(Into::into)))
    }

    /// Calls the function and puts the login into `config`.
    pub(crate) fn apply(&self, config: &mut postgres::Config) -> Result<(), Error> {
        let failed = |message: &'static str| Error::new(ErrorKind::Login, message).passing();
        let credentials = catch_unwind(AssertUnwindSafe(|| (self.0)()))
            .map_err(|_| failed("no login: the function of Builder::credentials has panicked"))?
            .map_err(|error| {
                failed("no login: the function of Builder::credentials has failed")
                    .caused_by_any(error)
            })?;
        // The protocol terminates its strings with one.
        if [&credentials.user, &credentials.password]
            .iter()
            .any(|text| text.contains('\0'))
        {
            return Err(Error::new(
                ErrorKind::Login,
                "neither the user nor the password of Builder::credentials may have a NUL",
            ));
        }
        config
            .user(&credentials.user)
            .password(&credentials.password);
        Ok(())
    }
}
