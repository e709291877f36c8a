//! [`Key`]: what is locked, a number in one of Postgres's two advisory key spaces.

mod conversions;
pub(crate) mod names;

use std::cmp::Ordering;
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
/// | `&str`, `String`, `Cow<str>`, `Arc<str>` | SHA-256 of the UTF-8 bytes, its first 8 bytes, big-endian | yes |
/// | `&[u8]`, `[u8; 16]` (a UUID; a `u128` by `to_be_bytes`) | the same of the bytes | yes |
/// | `(&str, i64)`, or a smaller integer | the same of SHA-256 of the UTF-8 bytes, followed by the 8 bytes of the number, big-endian | yes |
/// | [`Key::fnv1a64`] | FNV-1a, 64 bits | no |
/// | `i64` | itself, in the space of one `bigint` | no |
/// | `(i32, i32)` | themselves, in the space of two `integer`s | no |
///
/// Any string is a valid name: empty, with NUL bytes, a megabyte long. Any program that
/// can run SQL can compute the number of a name, or of a name with a number, such as
/// `("tenant", 17)`, and take the same lock:
///
/// ```sql
/// SELECT ('x' || left(encode(sha256(convert_to('nightly-report', 'UTF8')), 'hex'), 16))::bit(64)::bigint;
/// SELECT ('x' || left(encode(sha256(sha256(convert_to('tenant', 'UTF8')) || int8send(17)), 'hex'), 16))::bit(64)::bigint;
/// ```
///
/// [`sql`](Key::sql) has the number as such a program writes it, and
/// [`Manager::key`](crate::Manager::key) the key in the manager's namespace.
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
/// # Companions
///
/// Pairs whose first number is 1684824939 (`dlck` in ASCII) are reserved: each manager's
/// session holds one of them for its life, as a marker; so are those with 1684829304 (`dltx`).
/// Each key has companions, further locks that are one `bigint`: the key's number
/// ([`as_i64`](Key::as_i64)) XOR a constant. The constants will not change.
///
/// | held shared by | of a `bigint` | of two `integer`s |
/// |---|---|---|
/// | those who wait for the key | 7236289961542312553 | 7236289961542314345 |
/// | all [fenced transactions](crate::Guard::fence) of the key | -7662212718126397390 | 6282293021679048219 |
/// | those of exclusive holders | 7752320399516901311 | -4304094429820485292 |
///
/// A program that chooses numbers itself must not lock one that is another key's companion, or a
/// pair that is reserved.
///
/// Who takes a lock without this crate, and is not to get in before the fenced transactions of
/// earlier holders have ended, tries the companion once it has the lock, and gives it back at
/// once. For the name above, true if the lock is taken:
///
/// ```sql
/// SELECT CASE WHEN NOT pg_try_advisory_lock(7440995589958059143) THEN false
///     WHEN pg_try_advisory_lock(7440995589958059143 # -7662212718126397390)
///     THEN pg_advisory_unlock(7440995589958059143 # -7662212718126397390)
///     ELSE NOT pg_advisory_unlock(7440995589958059143) END;
/// ```
///
/// [Advisory Lock Functions]: https://www.postgresql.org/docs/current/functions-admin.html#FUNCTIONS-ADVISORY-LOCKS
#[derive(Clone, Copy)]
pub struct Key {
    /// Two integers are its two halves.
    number: i64,
    space: Space,
}

/// What a key's companions differ from its number by.
pub(crate) struct Companions {
    /// Held shared by those who wait for the key.
    pub(crate) waiters: i64,
    /// Held shared by all fenced transactions of the key.
    pub(crate) fenced: i64,
    /// Held shared by the fenced transactions of exclusive holders.
    pub(crate) fenced_exclusively: i64,
}

impl Companions {
    /// Those of keys of one `bigint`. No two of the constants differ by a number that programs
    /// choose: then one key's companion would be another's. (These are the first 8 bytes of
    /// `sha256('distlock fenced bigint')` and the like.)
    pub(crate) const OF_ONE: Companions = Companions {
        waiters: i64::from_be_bytes(*b"dlwaitbi"),
        fenced: -7_662_212_718_126_397_390,
        fenced_exclusively: 7_752_320_399_516_901_311,
    };

    /// Those of keys of two `integer`s.
    pub(crate) const OF_TWO: Companions = Companions {
        waiters: i64::from_be_bytes(*b"dlwaitii"),
        fenced: 6_282_293_021_679_048_219,
        fenced_exclusively: -4_304_094_429_820_485_292,
    };
}

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

    /// The arguments of PostgreSQL's lock functions for this key: a `bigint`, or two `integer`s.
    ///
    /// ```
    /// use distlock::Key;
    ///
    /// let lock = |key: Key| format!("SELECT pg_try_advisory_lock({})", key.sql());
    /// assert_eq!(lock(Key::from(42)), "SELECT pg_try_advisory_lock('42'::bigint)");
    /// assert_eq!(lock(Key::from((4, -2))), "SELECT pg_try_advisory_lock(4, -2)");
    /// ```
    pub fn sql(&self) -> String {
        match self.halves() {
            Some((first, second)) => format!("{first}, {second}"),
            None => format!("'{}'::bigint", self.number),
        }
    }

    /// The two numbers of a key of two `integer`s.
    fn halves(&self) -> Option<(i64, i64)> {
        // The shifts extend the sign of each half.
        self.is_two()
            .then_some((self.number >> 32, self.number << 32 >> 32))
    }

    /// The key of `bytes`, which are a name.
    fn of_name(bytes: &[u8]) -> Key {
        Key {
            number: leading_i64(&Sha256::digest(bytes)),
            space: Space::Named,
        }
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

    fn companions(self) -> &'static Companions {
        match self.is_two() {
            true => &Companions::OF_TWO,
            false => &Companions::OF_ONE,
        }
    }

    /// The companion that sessions which wait for the key hold shared.
    pub(crate) fn waiters(self) -> Key {
        Key::from(self.number ^ self.companions().waiters)
    }

    /// The companion that all fenced transactions hold shared.
    pub(crate) fn fenced(self) -> Key {
        Key::from(self.number ^ self.companions().fenced)
    }

    /// The companion that the fenced transactions of exclusive holders hold shared.
    pub(crate) fn fenced_exclusively(self) -> Key {
        Key::from(self.number ^ self.companions().fenced_exclusively)
    }

    /// The keys whose waiters hold this one shared.
    pub(crate) fn awaited_by(self) -> impl Iterator<Item = Key> {
        self.of_companions()
            .map(|(of, by)| of.differing_by(by.waiters))
    }

    /// The keys of which this one is a companion.
    pub(crate) fn companion_of(self) -> impl Iterator<Item = Key> {
        self.of_companions().flat_map(|(of, by)| {
            let all = [by.waiters, by.fenced, by.fenced_exclusively];
            all.map(|by| of.differing_by(by))
        })
    }

    /// This number as one of either space, with what the companions of that differ by.
    fn of_companions(self) -> impl Iterator<Item = (Key, &'static Companions)> {
        let spaces = [
            (Space::One, &Companions::OF_ONE),
            (Space::Two, &Companions::OF_TWO),
        ];
        let number = self.number;
        let spaces = spaces.into_iter().filter(move |_| !self.is_two());
        spaces.map(move |(space, by)| (Key { number, space }, by))
    }

    fn differing_by(self, by: i64) -> Key {
        let number = self.number ^ by;
        Key { number, ..self }
    }

    /// The key that a manager in the [namespace](crate::Builder::namespace) `name` uses, without the
    /// manager: itself if it is not made from a name.
    ///
    /// ```
    /// use distlock::Key;
    ///
    /// let key = Key::from("nightly-report");
    /// assert_ne!(key.in_namespace("billing"), key);
    /// assert_eq!(Key::from(17).in_namespace("billing"), Key::from(17));
    /// ```
    #[must_use]
    pub fn in_namespace(self, name: &str) -> Key {
        self.within(Some(&Namespace::new(name)))
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

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        (self.number, self.is_two()) == (other.number, other.is_two())
    }
}

impl Eq for Key {}

/// The order in which sets are locked, the same for all versions: first keys of one number.
impl Ord for Key {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.is_two(), self.number).cmp(&(other.is_two(), other.number))
    }
}

impl PartialOrd for Key {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.number, self.is_two()).hash(state);
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.halves() {
            Some((first, second)) => write!(f, "({first}, {second})"),
            None => self.number.fmt(f),
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
