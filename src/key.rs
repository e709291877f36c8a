//! [`Key`]: what is locked, a number in one of Postgres's two advisory key spaces.

pub(crate) mod names;

use std::fmt;
use std::hash::{Hash, Hasher};

use fnv::FnvHasher;
use sha2::{Digest, Sha256};

/// What is locked.
///
/// Postgres identifies advisory locks by number, in two separate spaces: one `bigint`
/// or two `integer`s ([Advisory Lock Functions]). A `Key` is such a number. Most
/// programs never name the type: everything that converts to a key may be passed to
/// [`Manager::lock`](crate::Manager::lock) as it is.
///
/// | from | number | namespaced |
/// |---|---|---|
/// | `&str`, `String` | SHA-256 of the UTF-8 bytes, its first 8 bytes, big-endian | yes |
/// | [`Key::fnv1a64`] | FNV-1a, 64 bits | no |
/// | `i64` | itself, in the space of one `bigint` | no |
/// | `(i32, i32)` | themselves, in the space of two `integer`s | no |
///
/// Pairs whose first number is 1684824939 (`dlck` in ASCII) are reserved: each manager's
/// session holds one of them for its life, as a marker. Each key has a companion, a `bigint`
/// that those who wait for the key hold shared meanwhile, so that its holder can tell whether
/// somebody waits: the key's number XOR 7236289961542312553 if it is one `bigint` (`dlwaitbi` in
/// ASCII), XOR 7236289961542314345 if it is two `integer`s (`dlwaitii`). A program that chooses
/// numbers itself must not lock one that is another key's companion.
///
/// Any string is a valid name: empty, with NUL bytes, a megabyte long. Any program that
/// can run SQL can compute the number of a name and take the same lock:
///
/// ```sql
/// SELECT ('x' || left(encode(sha256(convert_to('nightly-report', 'UTF8')), 'hex'), 16))::bit(64)::bigint;
/// ```
///
/// In a namespace ([`Builder::namespace`](crate::Builder::namespace)) the number of
/// a name is the first 8 bytes of
/// `sha256(sha256(namespace) || first 8 bytes of sha256(name))`. The mapping will
/// not change: programs of different versions exclude each other.
///
/// Two keys are equal if they are the same number in the same space. Two names with
/// one number are one lock; by the birthday bound that has a chance of about one in
/// 10⁷ among two million names.
///
/// ```
/// use distlock::Key;
///
/// let key = Key::from("nightly-report");
/// assert_eq!(key, Key::from(key.as_i64()));
/// assert_eq!(Key::from(42).to_string(), "42");
/// assert_eq!(Key::from((4, 2)).to_string(), "(4, 2)");
/// ```
///
/// [Advisory Lock Functions]: https://www.postgresql.org/docs/current/functions-admin.html#FUNCTIONS-ADVISORY-LOCKS
#[derive(Clone, Copy)]
pub struct Key {
    /// Two integers are its two halves.
    number: i64,
    space: Space,
}

/// What the companion of a key of one `bigint` differs by.
pub(crate) const WAITERS_OF_ONE: i64 = i64::from_be_bytes(*b"dlwaitbi");
/// What the companion of a key of two `integer`s differs by.
pub(crate) const WAITERS_OF_TWO: i64 = i64::from_be_bytes(*b"dlwaitii");

/// Which of Postgres's two key spaces the number is in.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Space {
    /// One `bigint`, made from a name: a namespace applies to it.
    Named,
    /// One `bigint`.
    One,
    /// Two `integer`s.
    Two,
}

impl Key {
    /// The key that the Go package `ldelossa/distlock` (ClairCore) uses for `name`:
    /// FNV-1a, 64 bits ([draft-eastlake-fnv]). A namespace does not apply to it, so
    /// that a Rust process and a Go process exclude each other on the same name.
    ///
    /// ```
    /// use distlock::Key;
    ///
    /// assert_eq!(Key::fnv1a64("foobar").as_i64() as u64, 0x85944171f73967e8);
    /// ```
    ///
    /// [draft-eastlake-fnv]: https://datatracker.ietf.org/doc/draft-eastlake-fnv/
    pub fn fnv1a64(name: &str) -> Key {
        let mut hasher = FnvHasher::default();
        hasher.write(name.as_bytes());
        let number = hasher.finish().cast_signed();
        names::note(number, name);
        Key::from(number)
    }

    /// The key as one number.
    ///
    /// In [`pg_locks`] its upper half is `classid` and its lower half `objid`, both
    /// unsigned, with `objsubid` 1 for a single `bigint` and 2 for two `integer`s,
    /// which this call joins in that order.
    ///
    /// [`pg_locks`]: https://www.postgresql.org/docs/current/view-pg-locks.html
    pub fn as_i64(&self) -> i64 {
        self.number
    }

    /// For the log: with the name that it was made from, if that is [kept](names).
    pub(crate) fn described(&self) -> String {
        match names::get(self.number).filter(|_| !self.is_two()) {
            Some(name) => format!("{name:?} ({self})"),
            None => self.to_string(),
        }
    }

    /// The inverse of [`as_i64`](Key::as_i64), for what the server reports.
    pub(crate) fn from_server(number: i64, two: bool) -> Key {
        let space = if two { Space::Two } else { Space::One };
        Key { number, space }
    }

    /// True for two `integer`s, false for one `bigint`.
    pub(crate) fn is_two(&self) -> bool {
        self.space == Space::Two
    }

    /// The key's companion, which sessions that wait for it hold shared.
    pub(crate) fn waiters(self) -> Key {
        let difference = match self.is_two() {
            true => WAITERS_OF_TWO,
            false => WAITERS_OF_ONE,
        };
        Key::from(self.number ^ difference)
    }

    /// The key of `self` in `namespace`: itself if it is not a name.
    pub(crate) fn within(self, namespace: Option<&Namespace>) -> Key {
        match namespace {
            Some(Namespace(digest)) if self.space == Space::Named => {
                let digest = Sha256::new()
                    .chain_update(digest)
                    .chain_update(self.number.to_be_bytes())
                    .finalize();
                let number = leading_i64(&digest);
                names::alias(number, self.number);
                Key::from(number)
            }
            _ => self,
        }
    }
}

/// Separates the names of applications that share a database.
#[derive(Clone, Debug)]
pub(crate) struct Namespace([u8; 32]);

impl Namespace {
    pub(crate) fn new(name: &str) -> Self {
        Namespace(Sha256::digest(name.as_bytes()).into())
    }
}

fn leading_i64(digest: &[u8]) -> i64 {
    let mut first = [0; 8];
    first.copy_from_slice(&digest[..8]);
    i64::from_be_bytes(first)
}

impl From<&str> for Key {
    fn from(name: &str) -> Self {
        let number = leading_i64(&Sha256::digest(name.as_bytes()));
        names::note(number, name);
        Key {
            number,
            space: Space::Named,
        }
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

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        (self.number, self.is_two()) == (other.number, other.is_two())
    }
}

impl Eq for Key {}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.number, self.is_two()).hash(state);
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_two() {
            // The shifts extend the sign of each half.
            let (first, second) = (self.number >> 32, self.number << 32 >> 32);
            write!(f, "({first}, {second})")
        } else {
            self.number.fmt(f)
        }
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({self})")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2000) })]

        #[test]
        fn every_name_is_a_key_the_same_each_time_and_no_other(one in ".*", other in ".*") {
            let key = Key::from(one.as_str());
            prop_assert_eq!(key, Key::from(one.clone()));
            prop_assert_eq!(key == Key::from(other.as_str()), one == other);
            prop_assert!(!key.is_two());
            let _ = Key::fnv1a64(&one);
        }

        #[test]
        fn a_namespace_moves_every_name_and_no_number(name in ".*", space in ".*", n: i64) {
            let namespace = Namespace::new(&space);
            let key = Key::from(name.as_str());
            let moved = key.within(Some(&namespace));
            prop_assert_ne!(moved, key);
            // Applied only once: a guard's key may be used again.
            prop_assert_eq!(moved.within(Some(&namespace)), moved);
            prop_assert_eq!(Key::from(n).within(Some(&namespace)), Key::from(n));
        }

        #[test]
        fn what_the_server_reports_is_the_key_that_was_locked(pair: (i32, i32), n: i64) {
            for key in [Key::from(pair), Key::from(n)] {
                prop_assert_eq!(Key::from_server(key.as_i64(), key.is_two()), key);
            }
            prop_assert_eq!(Key::from(pair).to_string(), format!("({}, {})", pair.0, pair.1));
        }
    }
}
