use std::collections::BTreeMap;

use berth_schemas::{Timestamp, variable::VariableScope};
use proptest::prelude::*;

use super::*;

fn row(name: &str, value: &str) -> VariableRow {
    VariableRow {
        name: name.parse().unwrap(),
        value: value.into(),
        scope: VariableScope::Environment,
        secret: false,
        build: false,
        refers: true,
        version: 1,
        updated_at: Timestamp(1),
        updated_by: "ann".into(),
    }
}

fn given() -> BuiltIns {
    BuiltIns::named(&"web".parse().unwrap(), &"production".parse().unwrap(), "http://web.test".into())
}

fn resolved(rows: &[VariableRow]) -> BTreeMap<String, Resolved> {
    resolve(rows, &given()).into_iter().map(|(name, r)| (name.to_string(), r)).collect()
}

fn values(rows: &[VariableRow]) -> Vec<(String, Result<String, String>)> {
    resolved(rows).into_iter().map(|(n, r)| (n, r.value.map_err(|f| f.to_string()))).collect()
}

fn value(rows: &[VariableRow], name: &str) -> Result<String, String> {
    resolved(rows).remove(name).unwrap().value.map_err(|fault| fault.to_string())
}

#[test]
fn references_are_followed_through_others() {
    let rows = [
        row("URL", "postgres://${USER}:${PASSWORD}@${HOST}/${USER}"),
        row("USER", "app"),
        row("PASSWORD", "$${x}"),
        row("HOST", "db.${BERTH_ENVIRONMENT}"),
    ];
    assert_eq!(value(&rows, "URL").unwrap(), "postgres://app:${x}@db.production/app");
    let url = resolved(&rows).remove("URL").unwrap();
    assert_eq!(url.refers_to.len(), 3);
}

#[test]
fn what_was_set_without_references_stands_for_itself() {
    let mut old = row("OLD", "a${HOST}$${b${");
    old.refers = false;
    assert_eq!(value(&[old.clone()], "OLD").unwrap(), "a${HOST}$${b${");
    let new = row("NEW", "<${OLD}>");
    assert_eq!(value(&[old, new], "NEW").unwrap(), "<a${HOST}$${b${>", "what is put in is not read again");
}

#[test]
fn who_refers_to_a_secret_is_one() {
    let mut password = row("PASSWORD", "sesame");
    password.secret = true;
    let rows =
        [password, row("URL", "x:${PASSWORD}"), row("ALL", "${URL}"), row("HOST", "h"), row("UP", "${HOST}")];
    let secret: Vec<String> =
        resolved(&rows).into_iter().filter(|(_, r)| r.secret).map(|(name, _)| name).collect();
    assert_eq!(secret, ["ALL", "PASSWORD", "URL"]);
}

#[test]
fn faults_name_the_chain_and_nobody_elses_value() {
    let rows = [
        row("A", "${B}"),
        row("B", "sesame ${C}"),
        row("C", "${GONE}"),
        row("D", "${E}"),
        row("E", "${D}"),
        row("F", "${D}"),
        row("G", "${G}"),
        row("H", "${BAD NAME}"),
        row("OK", "fine"),
    ];
    let said: Vec<(String, Result<String, String>)> = values(&rows);
    let said = |name: &str| said.iter().find(|(n, _)| n == name).unwrap().1.clone();
    assert_eq!(
        said("A").unwrap_err(),
        "A refers to B, which refers to C, which refers to GONE, which is not set"
    );
    assert_eq!(said("D").unwrap_err(), "D refers to E, which refers to D, in a circle");
    assert_eq!(said("F").unwrap_err(), "F refers to D, which refers to E, which refers to D, in a circle");
    assert_eq!(said("G").unwrap_err(), "G refers to G, in a circle");
    assert_eq!(said("H").unwrap_err(), "H: what stands in a ${…} of it is no variable's name");
    assert_eq!(said("OK").unwrap(), "fine");
    let faults: Vec<Fault> = resolved(&rows).into_values().filter_map(|r| r.value.err()).collect();
    let problem = problem_of("web", &faults).unwrap();
    assert_eq!(
        (problem.code, problem.candidates.as_slice()),
        (Code::MissingVariable, &["GONE".to_owned()][..])
    );
    assert!(!problem.to_string().contains("sesame"));
}

#[test]
fn long_chains_are_told_by_their_ends() {
    let mut rows: Vec<VariableRow> =
        (0..3000).map(|n| row(&format!("V{n}"), &format!("${{V{}}}", n + 1))).collect();
    let told = value(&rows, "V0").unwrap_err();
    assert!(told.ends_with("which refers to V2999, which refers to V3000, which is not set"), "{told}");
    assert!(told.starts_with("V0 refers to V1,") && told.len() < 400, "{told}");
    rows.push(row("V3000", "end"));
    assert_eq!(value(&rows, "V0").unwrap(), "end");
    rows.pop();
    rows.push(row("V3000", "${V2990}"));
    assert!(value(&rows, "V0").unwrap_err().ends_with("in a circle"));
}

#[test]
fn what_doubles_again_and_again_is_stopped() {
    let mut rows = vec![row("V0", "ha")];
    rows.extend((1..60).map(|n| row(&format!("V{n}"), &format!("${{V{0}}}${{V{0}}}", n - 1))));
    assert_eq!(value(&rows, "V14").unwrap().len(), 32 * 1024);
    assert!(value(&rows, "V59").unwrap_err().contains("longer than 65536 bytes"));
}

#[test]
fn the_stamp_follows_what_is_referred_to() {
    let stamp = |host_at: i64| {
        let mut host = row("HOST", "h");
        host.updated_at = Timestamp(host_at);
        resolved(&[host, row("URL", "${HOST}"), row("X", "x")]).remove("URL").unwrap().stamp
    };
    assert_eq!(stamp(1), stamp(1));
    assert_ne!(stamp(1), stamp(2));
}

/// A value made of text and references, and what it must become by a plain recursion.
fn expected(rows: &BTreeMap<String, Vec<Part>>, name: &str, depth: usize) -> Option<String> {
    if depth > rows.len() {
        return None;
    }
    let mut value = String::new();
    for part in rows.get(name)? {
        match part {
            Part::Text(text) => value.push_str(text),
            Part::Reference(to) => value.push_str(&expected(rows, to.as_str(), depth + 1)?),
        }
    }
    (value.len() <= LONGEST_VALUE).then_some(value)
}

fn graph() -> impl Strategy<Value = BTreeMap<String, Vec<Part>>> {
    let part = prop_oneof![
        "[$a{}]{1,4}".prop_map(Part::Text),
        "[A-F]".prop_map(|name| Part::Reference(name.parse().unwrap())),
    ];
    prop::collection::btree_map("[A-E]", prop::collection::vec(part, 0..4), 0..6)
}

proptest! {
    #[test]
    fn every_variable_gets_what_a_recursion_finds_or_a_fault(graph in graph()) {
        let rows: Vec<VariableRow> = graph
            .iter()
            .map(|(name, parts)| {
                let mut value = String::new();
                for part in parts {
                    match part {
                        Part::Text(text) => value.push_str(&Template::literal(text).to_string()),
                        Part::Reference(to) => value.push_str(&format!("${{{to}}}")),
                    }
                }
                row(name, &value)
            })
            .collect();
        let ends_in_sign = graph.values().any(|parts| {
            parts.windows(2).any(|w| matches!(&w[0], Part::Text(text) if text.ends_with('$')))
        });
        // Text that ends in `$` before a piece that begins with `{` or a reference reads as another value.
        prop_assume!(!ends_in_sign);
        let found = resolved(&rows);
        prop_assert_eq!(found.len(), rows.len());
        for (name, resolved) in found {
            prop_assert_eq!(resolved.value.ok(), expected(&graph, &name, 0), "{}", name);
        }
    }

    #[test]
    fn nothing_makes_it_panic(values in prop::collection::btree_map("[A-D]", "[$A-E{}]{0,12}", 0..5)) {
        let rows: Vec<VariableRow> = values.iter().map(|(name, value)| row(name, value)).collect();
        for (_, resolved) in resolved(&rows) {
            if let Err(fault) = resolved.value {
                prop_assert!(!fault.chain().is_empty() && !fault.to_string().is_empty());
            }
        }
    }
}
