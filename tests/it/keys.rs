//! The mapping of keys to numbers. It is frozen: other programs rely on it.

use std::borrow::Cow;
use std::sync::Arc;

use distlock::Key;
use postgres::Client;
use serial_test::serial;
use sha2::{Digest, Sha256};

use crate::support::*;

/// The mapping of a name, as other programs do it.
const BY_SQL: &str =
    "SELECT ('x' || left(encode(sha256(convert_to($1, 'UTF8')), 'hex'), 16))::bit(64)::bigint";

/// The same from the name's bytes, which may hold NUL.
const BY_SQL_FROM_BYTES: &str =
    "SELECT ('x' || left(encode(sha256($1), 'hex'), 16))::bit(64)::bigint";

const NAMESPACED_BY_SQL: &str = "SELECT ('x' || left(encode(sha256( \
     sha256(convert_to($1, 'UTF8')) || substring(sha256(convert_to($2, 'UTF8')) FOR 8) \
     ), 'hex'), 16))::bit(64)::bigint";

fn names() -> Vec<String> {
    let mut names: Vec<String> = [
        "",
        " ",
        "a",
        "A",
        "a ",
        "nightly-report",
        "tenant/17",
        "it's",
        "\\x00",
        "%s",
        "\n",
        "ключ",
        "鍵",
        "🔒",
        "e\u{301}",
        "\u{e9}",
        "\u{feff}",
        "\u{10ffff}",
    ]
    .map(String::from)
    .into();
    names.extend((0..100).map(|n| format!("job-{n}")));
    names.extend([55, 56, 63, 64, 65, 4096].map(|length| "n".repeat(length)));
    names
}

fn number(client: &mut Client, sql: &str, name: &str) -> i64 {
    client.query_one(sql, &[&name]).unwrap().get(0)
}

/// True if another session can take the lock; it does not keep it.
fn is_free(client: &mut Client, lock: &str) -> bool {
    let sql = format!("SELECT pg_try_advisory_xact_lock({lock})");
    client.query_one(&sql, &[]).unwrap().get(0)
}

#[test]
fn names_have_their_published_numbers() {
    let golden = [
        ("", -2039914840885289964),
        (" ", 3938934374763561727),
        ("a", -3848465438864589366),
        ("foobar", -4347222749121288019),
        ("nightly-report", 7440995589958059143),
        ("ключ", 2153681812738117024),
        ("🔒", 7701668758205862634),
        ("a\0b", 6463353407833682387),
    ];
    for (name, number) in golden {
        assert_eq!(Key::from(name).as_i64(), number, "{name:?}");
        assert_eq!(Key::from(name.to_owned()), Key::from(name));
        assert_eq!(Key::from(name), Key::from(number));
        assert_eq!(Key::from(name).to_string(), number.to_string());
    }
    let megabyte = "x".repeat(1 << 20);
    assert_eq!(Key::from(megabyte).as_i64(), -8099429669981932260);
}

/// Vectors of the reference implementation (isthe.com/chongo/tech/comp/fnv).
#[test]
fn fnv_names_have_their_published_numbers() {
    let golden: [(&str, u64); 13] = [
        ("", 0xcbf29ce484222325),
        ("a", 0xaf63dc4c8601ec8c),
        ("b", 0xaf63df4c8601f1a5),
        ("c", 0xaf63de4c8601eff2),
        ("d", 0xaf63d94c8601e773),
        ("e", 0xaf63d84c8601e5c0),
        ("f", 0xaf63db4c8601ead9),
        ("fo", 0x08985907b541d342),
        ("foo", 0xdcb27518fed9d577),
        ("foob", 0xdd120e790c2512af),
        ("fooba", 0xcac165afa2fef40a),
        ("foobar", 0x85944171f73967e8),
        ("chongo was here!\n", 0x46810940eff5f915),
    ];
    for (name, number) in golden {
        assert_eq!(
            Key::fnv1a64(name).as_i64().cast_unsigned(),
            number,
            "{name:?}"
        );
    }
}

#[test]
fn keys_are_equal_if_they_are_one_number_in_one_space() {
    assert_eq!(Key::from((1, 2)).as_i64(), (1 << 32) + 2);
    assert_eq!(Key::from((-1, -1)).as_i64(), -1);
    assert_eq!(Key::from((0, -1)).as_i64(), 0xffff_ffff);
    assert_eq!(Key::from((-2, 1)).to_string(), "(-2, 1)");
    assert_ne!(Key::from((1, 2)), Key::from(Key::from((1, 2)).as_i64()));
    assert_ne!(Key::from((1, 2)), Key::from((2, 1)));
}

#[test]
#[serial]
fn sql_computes_the_same_number_for_a_name() {
    let mut client = server().client();
    for name in names() {
        assert_eq!(
            Key::from(&name).as_i64(),
            number(&mut client, BY_SQL, &name),
            "{name:?}"
        );
    }
    for name in ["a\0b", "\0", "\0\0"] {
        let row = client
            .query_one(BY_SQL_FROM_BYTES, &[&name.as_bytes()])
            .unwrap();
        assert_eq!(Key::from(name).as_i64(), row.get::<_, i64>(0), "{name:?}");
        let digest: [u8; 8] = Sha256::digest(name)[..8].try_into().unwrap();
        assert_eq!(Key::from(name).as_i64(), i64::from_be_bytes(digest));
    }
}

#[test]
fn names_of_other_types_have_their_published_numbers() {
    let golden = [
        ("tenant", 17, 6904465003305991884),
        ("tenant", -1, -1838405246928558941),
    ];
    for (name, number, key) in golden {
        assert_eq!(Key::from((name, number)).as_i64(), key, "{name:?} {number}");
        assert_eq!(Key::from((name, i64::from(number))).as_i64(), key);
    }
    assert_eq!(Key::from(("", 0_u8)).as_i64(), 6655549341071012288);
    let bytes = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15_u8];
    for key in [
        Key::from(bytes),
        Key::from(&bytes[..]),
        Key::from(u128::from_be_bytes(bytes).to_be_bytes()),
    ] {
        assert_eq!(key.as_i64(), -4736156068944595266);
    }
    assert_eq!(Key::from(&b"\xff\0"[..]).as_i64(), -1558879246798977047);
    let name = Key::from("nightly-report");
    let shared: Arc<str> = "nightly-report".into();
    for key in [
        Key::from(&b"nightly-report"[..]),
        Key::from(Cow::Borrowed("nightly-report")),
        Key::from(&shared),
        Key::from(shared),
    ] {
        assert_eq!(key, name);
    }
}

#[test]
#[serial]
fn sql_computes_the_same_number_for_a_name_with_a_number() {
    let mut client = server().client();
    let by_sql = "SELECT ('x' || left(encode(sha256(sha256(convert_to($1, 'UTF8')) \
                  || int8send($2)), 'hex'), 16))::bit(64)::bigint";
    for name in names() {
        for n in [0, 17, -1, i64::MIN, i64::MAX] {
            let row = client.query_one(by_sql, &[&name, &n]).unwrap();
            let key = Key::from((name.as_str(), n));
            assert_eq!(key.as_i64(), row.get::<_, i64>(0), "{name:?} {n}");
        }
    }
}

/// What `sql` gives is the lock itself, and `Manager::key` applies the namespace, to all names.
#[apply(isolated_test)]
fn any_program_can_take_a_lock_by_its_sql() {
    let mgr = builder().namespace("billing").connect().unwrap();
    let mut client = server().client();
    let mut is_free = |key: Key| -> bool {
        let sql = format!("SELECT pg_try_advisory_xact_lock({})", key.sql());
        client.query_one(&sql, &[]).unwrap().get(0)
    };
    let keys = [
        mgr.key("nightly-report"),
        mgr.key(("tenant", 17)),
        mgr.key([7; 16]),
        mgr.key(i64::MIN),
        mgr.key((-4, 2)),
    ];
    for key in keys {
        let guard = mgr.lock(key).unwrap();
        assert_eq!(guard.key(), &key);
        assert!(!is_free(key), "{key}");
        guard.unlock().unwrap();
        assert!(is_free(key), "{key}");
    }
    let guard = mgr.lock(("tenant", 17)).unwrap();
    assert_eq!(guard.key(), &keys[1]);
    assert_ne!(keys[1], Key::from(("tenant", 17)), "it is namespaced");
    assert_eq!(mgr.key(42), Key::from(42), "numbers are not");
}

#[apply(isolated_test)]
fn sql_computes_the_same_number_for_a_name_in_a_namespace() {
    let mut client = server().client();
    for namespace in ["billing", "", "ключ"] {
        let mgr = builder().namespace(namespace).connect().unwrap();
        for name in names() {
            let guard = mgr.try_lock(&name).unwrap().unwrap();
            let row = client
                .query_one(NAMESPACED_BY_SQL, &[&namespace, &name])
                .unwrap();
            assert_eq!(
                guard.key().as_i64(),
                row.get::<_, i64>(0),
                "{namespace:?} {name:?}"
            );
        }
    }
    let mgr = builder().namespace("billing").connect().unwrap();
    let guard = mgr.lock("nightly-report").unwrap();
    assert_eq!(guard.key().as_i64(), 5656514339671912548);
}

#[apply(isolated_test)]
fn namespaces_keep_names_apart_and_nothing_else() {
    let none = manager();
    let [one, same, other] =
        ["one", "one", "other"].map(|namespace| builder().namespace(namespace).connect().unwrap());
    let _guard = one.lock("name").unwrap();
    assert!(same.try_lock("name").unwrap().is_none());
    assert!(same.acquire("name").shared().try_lock().unwrap().is_none());
    for mgr in [&none, &other] {
        assert!(mgr.try_lock("name").unwrap().is_some());
    }
    let numbers = [Key::from(7), Key::from((7, 7)), Key::fnv1a64("name")];
    for key in numbers {
        let guard = one.lock(key).unwrap();
        assert_eq!(guard.key(), &key);
        for mgr in [&none, &same, &other] {
            assert!(mgr.try_lock(key).unwrap().is_none(), "{key}");
        }
    }
}

#[apply(isolated_test)]
fn a_guards_key_names_the_lock_without_its_namespace_applied_twice() {
    let mgr = builder().namespace("one").connect().unwrap();
    let guard = mgr.lock("name").unwrap();
    let key = *guard.key();
    assert!(mgr.try_lock(key).unwrap().is_none());
    assert!(manager().try_lock(key).unwrap().is_none());
}

/// Keys of both of the server's key spaces, with all edge cases.
fn numbers() -> Vec<(Key, String)> {
    let longs = [0, 1, -1, 42, i64::MIN, i64::MAX, 1 << 32, -(1 << 32)];
    let pairs = [
        (0, 0),
        (0, 1),
        (1, 0),
        (-1, -1),
        (-1, 0),
        (0, -1),
        (i32::MIN, i32::MAX),
        (i32::MAX, i32::MIN),
        (i32::MIN, i32::MIN),
        (-7, 7),
    ];
    longs
        .map(|number| (Key::from(number), format!("'{number}'::bigint")))
        .into_iter()
        .chain(pairs.map(|(a, b)| (Key::from((a, b)), format!("'{a}'::int, '{b}'::int"))))
        .collect()
}

#[apply(isolated_test)]
fn sql_sees_our_locks_and_we_see_those_of_sql_in_both_key_spaces() {
    let mgr = manager();
    let mut client = server().client();
    for (key, lock) in numbers() {
        let guard = mgr.try_lock(key).unwrap().unwrap();
        assert!(!is_free(&mut client, &lock), "{key}");
        assert_eq!(advisory_locks(&mut client), [key.as_i64()]);
        guard.unlock().unwrap();

        let shared = mgr.try_lock_shared(key).unwrap().unwrap();
        assert!(!is_free(&mut client, &lock), "{key}");
        shared.unlock().unwrap();
        assert!(is_free(&mut client, &lock), "{key}");

        let mut transaction = client.transaction().unwrap();
        let sql = format!("SELECT pg_try_advisory_xact_lock({lock})");
        assert!(transaction.query_one(&sql, &[]).unwrap().get::<_, bool>(0));
        assert!(mgr.try_lock(key).unwrap().is_none(), "{key}");
        assert!(mgr.try_lock_shared(key).unwrap().is_none(), "{key}");
        transaction.rollback().unwrap();
        assert!(mgr.try_lock(key).unwrap().is_some(), "{key}");
    }
}

#[apply(isolated_test)]
fn the_two_key_spaces_are_apart() {
    let mgr = manager();
    for (key, _) in numbers() {
        let number = key.as_i64();
        // The shifts spread the sign.
        let pair = ((number >> 32) as i32, (number << 32 >> 32) as i32);
        let one = mgr.try_lock(Key::from(number)).unwrap().unwrap();
        let two = mgr.try_lock(Key::from(pair)).unwrap().unwrap();
        one.unlock().unwrap();
        assert!(mgr.try_lock(Key::from(pair)).unwrap().is_none(), "{key}");
        two.unlock().unwrap();
    }
}

#[apply(isolated_test)]
fn many_keys_of_all_kinds_in_one_batch_are_the_locks_they_say() {
    let mgr = manager();
    let mut client = server().client();
    let guards: Vec<_> = std::thread::scope(|scope| {
        let take = |(key, _): (Key, String), shared| {
            let mgr = &mgr;
            scope.spawn(move || match shared {
                true => mgr.lock_shared(key).unwrap(),
                false => mgr.lock(key).unwrap(),
            })
        };
        let threads: Vec<_> = numbers()
            .into_iter()
            .enumerate()
            .map(|(n, pair)| take(pair, n % 2 == 0))
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect()
    });
    let mut expected: Vec<i64> = guards.iter().map(|guard| guard.key().as_i64()).collect();
    let mut found = advisory_locks(&mut client);
    expected.sort_unstable();
    found.sort_unstable();
    assert_eq!(found, expected);
    for (_, lock) in numbers() {
        assert!(!is_free(&mut client, &lock), "{lock}");
    }
    drop(guards);
    eventually(|| advisory_locks(&mut client).is_empty());
}

#[apply(isolated_test)]
fn odd_names_are_names_like_any_other() {
    let (one, two) = (manager(), manager());
    for name in ["", "\0", "a\0b", &"x".repeat(1 << 20)] {
        let guard = one.lock(name).unwrap();
        assert!(two.try_lock(name).unwrap().is_none());
        guard.unlock().unwrap();
        assert!(two.try_lock(name).unwrap().is_some());
    }
}

#[apply(isolated_test)]
fn a_name_and_its_number_are_one_lock() {
    let mgr = manager();
    let twin = Key::from(Key::from("name").as_i64());
    let guard = mgr.lock("name").unwrap();
    assert!(mgr.try_lock(twin).unwrap().is_none());
    assert!(mgr.try_lock_shared(twin).unwrap().is_none());
    guard.unlock().unwrap();
    let guard = mgr.lock(twin).unwrap();
    assert!(mgr.try_lock("name").unwrap().is_none());
    drop(guard);
}
