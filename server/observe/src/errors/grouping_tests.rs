use serde_json::{Value, json};

use super::{super::event::Event, *};

fn grouped(body: &Value) -> Grouping {
    group(1, &Event::read(body).unwrap())
}

fn same(a: &Value, b: &Value) -> bool {
    grouped(a).strict == grouped(b).strict
}

fn frame(file: &str, function: &str, line: i64) -> Value {
    json!({"filename": file, "function": function, "lineno": line, "in_app": true})
}

fn raised(kind: &str, value: &str, frames: &[Value]) -> Value {
    json!({"platform": "python", "exception": {"values": [
        {"type": kind, "value": value, "stacktrace": {"frames": frames}}
    ]}})
}

#[test]
fn what_compilers_made_of_a_name_is_the_name() {
    let native = |function: &str| raised("panic", "x", &[json!({"function": function, "in_app": true})]);
    let first = native("_ZN4shop4cart5total17h0123456789abcdefE");
    assert!(same(&first, &native("_ZN4shop4cart5total17hfedcba9876543210E")), "another build");
    assert!(same(&first, &native("shop::cart::total")));
    assert!(!same(&first, &native("_ZN4shop4cart5items17h0123456789abcdefE")));
}

#[test]
fn moved_lines_other_values_and_other_machines_are_the_same() {
    let a = raised(
        "KeyError",
        "'a'",
        &[frame("/srv/a/app/main.py", "main", 3), frame("app/cart.py", "total", 9)],
    );
    let b = raised(
        "KeyError",
        "'b'",
        &[frame("/opt/b/app/main.py", "main", 7), frame("app/cart.py", "total", 12)],
    );
    assert!(same(&a, &b));
    assert_ne!(group(1, &Event::read(&a).unwrap()).strict, group(2, &Event::read(&a).unwrap()).strict);
    let other =
        raised("KeyError", "'a'", &[frame("app/main.py", "main", 3), frame("app/stock.py", "total", 9)]);
    assert!(!same(&a, &other));
}

#[test]
fn a_changed_caller_joins_by_the_loose_key() {
    let inner = frame("cart.py", "total", 9);
    let a = raised("ValueError", "no price for 7", &[frame("a.py", "show", 1), inner.clone()]);
    let b = raised("ValueError", "no price for 8", &[frame("b.py", "list", 1), inner.clone()]);
    let c = raised("ValueError", "no stock", &[frame("b.py", "list", 1), inner]);
    assert!(!same(&a, &b));
    assert_eq!(grouped(&a).loose, grouped(&b).loose);
    assert_ne!(grouped(&b).loose, grouped(&c).loose, "another message at a helper that raises for many");
}

#[test]
fn recursion_and_plumbing_do_not_count() {
    let deep = |n: usize| {
        let mut frames = vec![frame("t.js", "main", 1)];
        for _ in 0..n {
            frames.extend([frame("t.js", "walk", 2), frame("t.js", "visit", 3)]);
        }
        frames.push(frame("t.js", "leaf", 4));
        raised("RangeError", "x", &frames)
    };
    assert!(same(&deep(1), &deep(50)));
    let plain = raised("E", "x", &[frame("a.ts", "load", 1), frame("a.ts", "parse", 2)]);
    let woven = raised(
        "E",
        "x",
        &[frame("a.ts", "async load", 1), frame("a.ts", "__awaiter", 1), frame("a.ts", "parse", 2)],
    );
    assert!(same(&plain, &woven));
}

#[test]
fn two_builds_of_the_same_code_are_the_same() {
    let a = raised(
        "TypeError",
        "x is undefined",
        &[frame("https://x.example/assets/index-BnU9Lell.js", "priceOf", 1)],
    );
    let b = raised(
        "TypeError",
        "y is undefined",
        &[frame("https://x.example/assets/index-C2k7QpAx.js", "priceOf", 1)],
    );
    assert!(same(&a, &b));
    // Minified names tell nothing, so the message decides.
    let m = |file: &str, function: &str| raised("TypeError", "Cannot read 'a'", &[frame(file, function, 1)]);
    assert!(same(&m("assets/index-BnU9Lell.js", "t"), &m("assets/index-C2k7QpAx.js", "e")));
}

#[test]
fn a_fingerprint_decides_and_may_contain_the_default() {
    let with = |fingerprint: Value, value: &str| {
        let mut body = raised("E", value, &[frame("a.py", "f", 1)]);
        body["fingerprint"] = fingerprint;
        body["transaction"] = json!("/cart");
        body["tags"] = json!({"shop": "north"});
        body
    };
    let plain = with(json!(null), "x");
    assert!(same(&plain, &with(json!(["{{ default }}"]), "y")));
    assert!(same(&plain, &with(json!(["{{default}}"]), "y")));
    assert!(!same(&plain, &with(json!(["{{ default }}", "n"]), "x")));
    assert!(same(&with(json!(["db"]), "x"), &raised_other(json!(["db"]))));
    let reasons =
        grouped(&with(json!(["{{ transaction }}", "{{ tags.shop }}", "{{ nothing }}"]), "x")).reasons;
    let values: Vec<&str> = reasons.iter().map(|r| r.value.0.as_str()).collect();
    assert_eq!(values, ["/cart", "north", "<no nothing>"]);
}

fn raised_other(fingerprint: Value) -> Value {
    json!({"message": "quite another", "fingerprint": fingerprint})
}

#[test]
fn messages_group_by_their_template_or_without_parameters() {
    let m = |message: Value| json!({"level": "error", "logentry": message});
    assert!(same(
        &m(json!({"message": "user %s", "formatted": "user a"})),
        &m(json!({"message": "user %s", "formatted": "user b"}))
    ));
    assert!(same(&json!({"message": "user 7 is gone"}), &json!({"message": "user 8 is gone"})));
    assert!(!same(&json!({"message": "user 7 is gone"}), &json!({"message": "user 7 is back"})));
    assert!(!same(&json!({"message": "x", "logger": "a"}), &json!({"message": "x", "logger": "b"})));
}

#[test]
fn chains_count_by_both_ends_and_groups_by_their_leaves() {
    let e = |kind: &str, file: &str| json!({"type": kind, "stacktrace": {"frames": [frame(file, "fun", 1)]}});
    let chain = |kinds: &[Value]| json!({"exception": {"values": kinds}});
    let a = chain(&[e("Root", "r.py"), e("Middle", "m.py"), e("Outer", "o.py")]);
    let b = chain(&[e("Root", "r.py"), e("Outer", "o.py")]);
    let c = chain(&[e("Other", "r.py"), e("Outer", "o.py")]);
    assert!(same(&a, &b));
    assert!(!same(&a, &c));
    let leaf = |kind: &str, n: i64| json!({"type": kind, "mechanism": {"exception_id": n, "parent_id": 0}});
    let of = |leaves: &[Value]| {
        let mut all = leaves.to_vec();
        all.push(
            json!({"type": "ExceptionGroup", "mechanism": {"exception_id": 0, "is_exception_group": true}}),
        );
        chain(&all)
    };
    assert!(same(&of(&[leaf("A", 1), leaf("B", 2)]), &of(&[leaf("B", 1), leaf("A", 2), leaf("A", 3)])));
    assert!(!same(&of(&[leaf("A", 1)]), &of(&[leaf("C", 1)])));
}

#[test]
fn names_lose_what_a_build_adds() {
    for (name, wanted) in [
        ("main.3fa9c1d2.chunk.js", "main.chunk.js"),
        ("index-BnU9Lell.js", "index.js"),
        ("user-service.ts", "user-service.ts"),
        ("jquery-3.7.1.min.js", "jquery-3.7.1.min.js"),
        ("a.b.c", "a.b.c"),
    ] {
        assert_eq!(without_hash(name), wanted);
    }
    for (name, wanted) in [
        ("async load", "load"),
        ("Cart.total", "total"),
        ("handler_3fa9c1", "handler"),
        ("lambda$1", "lambda"),
        ("shop::price::h0123456789abcdef", "shop::price"),
        ("<alloc::boxed::Box<F> as core::ops::FnOnce<A>>::call_once", "::call_once"),
        ("utf_8", "utf"),
        ("<lambda>", "<lambda>"),
    ] {
        assert_eq!(function_name(name), wanted, "{name}");
    }
}

proptest::proptest! {
    #[test]
    fn lines_and_columns_never_count(lines in proptest::collection::vec(1_i64..9999, 3), other in proptest::collection::vec(1_i64..9999, 3)) {
        let of = |lines: &[i64]| {
            let frames: Vec<Value> = lines.iter().enumerate().map(|(i, l)| frame("a.py", &format!("func_{}", ["x", "y", "z"][i]), *l)).collect();
            grouped(&raised("E", "v", &frames))
        };
        proptest::prop_assert_eq!(of(&lines), of(&other));
    }
}
