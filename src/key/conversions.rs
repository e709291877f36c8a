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
        let digest = Sha256::new()
            .chain_update(Sha256::digest(name.as_bytes()))
            .chain_update(number.to_be_bytes())
            .finalize();
        let key = Key {
            number: leading_i64(&digest),
            space: Space::Named,
        };
        names::note_with(key.number, || format!("{name} {number}"));
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
