//! What a [`Key`] can be made from.

use std::borrow::Cow;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::{Key, Space, leading_i64, names};

impl From<&str> for Key {
    fn from(name: &str) -> Self {
        let key = Key::of_name(name.as_bytes());
        names::note(key.number, name);
        key
    }
}

impl From<String> for Key {
    fn from(name: String) -> Self {
        Key::from(name.as_str())
    }
}

impl From<&String> for Key {
    fn from(name: &String) -> Self {
        Key::from(name.as_str())
    }
}

impl From<Cow<'_, str>> for Key {
    fn from(name: Cow<'_, str>) -> Self {
        Key::from(&*name)
    }
}

impl From<Arc<str>> for Key {
    fn from(name: Arc<str>) -> Self {
        Key::from(&*name)
    }
}

impl From<&Arc<str>> for Key {
    fn from(name: &Arc<str>) -> Self {
        Key::from(&**name)
    }
}

impl From<&[u8]> for Key {
    fn from(name: &[u8]) -> Self {
        Key::of_name(name)
    }
}

impl From<[u8; 16]> for Key {
    fn from(name: [u8; 16]) -> Self {
        Key::of_name(&name)
    }
}

impl<N: Into<i64>> From<(&str, N)> for Key {
    fn from((name, number): (&str, N)) -> Self {
        let number: i64 = number.into();
        let key = of_parts(name, "", number);
        names::note_with(key.number, || format!("{name} {number}"));
        key
    }
}

/// The key of SHA-256 of: that of `name`, `kind`, the 8 bytes of `number`.
fn of_parts(name: &str, kind: &str, number: i64) -> Key {
    let digest = Sha256::new()
        .chain_update(Sha256::digest(name.as_bytes()))
        .chain_update(kind)
        .chain_update(number.to_be_bytes())
        .finalize();
    Key {
        number: leading_i64(&digest),
        space: Space::Named,
    }
}

impl Key {
    /// The key of one of a semaphore's permits, counted from 1: with
    /// [`Manager::semaphore`](crate::Manager::semaphore), `number` 0 is that for whose turn it is
    /// to wait. SHA-256 of these, its first 8 bytes, big-endian: SHA-256 of the name, the four
    /// bytes `slot`, the 8 bytes of the number, big-endian. Namespaced as a name is. In SQL:
    ///
    /// ```sql
    /// SELECT ('x' || left(encode(sha256(sha256(convert_to('exports', 'UTF8')) || 'slot' || int8send(1)), 'hex'), 16))::bit(64)::bigint;
    /// ```
    ///
    /// ```
    /// use distlock::Key;
    ///
    /// assert_eq!(Key::slot("exports", 1).as_i64(), -6_501_524_127_834_734_673);
    /// ```
    pub fn slot(name: &str, number: u32) -> Key {
        let key = of_parts(name, "slot", i64::from(number));
        names::note_with(key.number, || format!("{name} slot {number}"));
        key
    }
}

impl From<i64> for Key {
    fn from(number: i64) -> Self {
        Key {
            number,
            space: Space::One,
        }
    }
}

impl From<(i32, i32)> for Key {
    fn from((first, second): (i32, i32)) -> Self {
        Key {
            number: i64::from(first) << 32 | i64::from(second.cast_unsigned()),
            space: Space::Two,
        }
    }
}

impl From<&Key> for Key {
    fn from(key: &Key) -> Self {
        *key
    }
}
