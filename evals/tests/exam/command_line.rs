//! What the command line prints with `--json`: for each tool that reads, what its schema says.

use std::{
    collections::BTreeMap,
    path::Path,
    process::{Command, Output},
};

use berth_evals::{harness::world::Place, program::program};
use serde_json::{Map, Value};

use crate::{hints, root};

/// The program with nothing of whoever runs the tests.
fn command(berth: &Path, place: &Place) -> Command {
    let mut command = program(berth);
    command.env_clear().env("HOME", place.daemon.data()).env("BERTH_TOKEN", &place.daemon.token);
    command.args(["--json", "--url", &format!("http://{}", place.daemon.control)]);
    command
}

/// How each tool is called from a shell, as the program itself says: `berth variable reveal APP NAME`.
fn usages(berth: &Path, place: &Place) -> BTreeMap<String, String> {
    let listed = command(berth, place).arg("tool").output().unwrap();
    let listed: Value = serde_json::from_slice(&listed.stdout).unwrap();
    let text = |tool: &Value, field: &str| tool[field].as_str().unwrap().to_owned();
    listed["tools"].as_array().unwrap().iter().map(|t| (text(t, "name"), text(t, "command"))).collect()
}

fn word(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// The words of a call: what the usage has in capitals by its place, everything else by flags.
fn words(usage: &str, mut arguments: Map<String, Value>) -> Vec<String> {
    let mut words = Vec::new();
    for part in usage.split(' ').skip(1).take_while(|part| !part.starts_with("--")) {
        let is_field = part.chars().all(|c| c.is_ascii_uppercase() || c == '_');
        let value = if is_field { arguments.remove(&part.to_lowercase()) } else { None };
        words.push(value.as_ref().map_or_else(|| part.to_owned(), word));
    }
    for (name, value) in arguments {
        let flag = name.replace('_', "-");
        let each = value.as_array().cloned().unwrap_or_else(|| vec![value]);
        words.extend(each.iter().map(|value| format!("--{flag}={}", word(value))));
    }
    words
}

/// What is wrong with the answer to a call, of which it is known whether it is refused.
fn faults(tool: &str, refused: bool, output: &Output) -> Vec<String> {
    let (printed, said) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if refused {
        return match output.status.success() {
            true => vec![format!("{tool} from a shell succeeds, and is refused: {printed}")],
            false => Vec::new(),
        };
    }
    let answer = serde_json::from_slice::<Value>(&output.stdout);
    let Some(answer) = answer.ok().filter(|_| output.status.success()) else {
        return vec![format!("{tool} from a shell: {}: {printed}{said}", output.status)];
    };
    let file = root().join(format!("../schemas/tools/{tool}.json"));
    let schema: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    let validator = jsonschema::draft202012::new(&schema["output"]).unwrap();
    validator.iter_errors(&answer).map(|e| format!("{tool} from a shell: {e}: {answer}")).collect()
}

/// What readers answer from a shell that does not keep to their schemas.
pub(crate) async fn readers(berth: &Path, place: &Place) -> Vec<String> {
    let usages = usages(berth, place);
    let inputs = hints::inputs();
    let (mut found, mut checked) = (Vec::new(), 0);
    for (tool, _) in place.api.tools().iter().filter(|(_, hints)| hints.read_only) {
        let Some(usage) = usages.get(tool) else {
            found.push(format!("{tool} is no command"));
            continue;
        };
        let Some(input) = inputs.get(tool).filter(|input| input.skip.is_none()) else { continue };
        let arguments = input.arguments(place).await;
        let (status, _) = place.api.raw(tool, &arguments).await.unwrap();
        let words = words(usage, arguments.as_object().cloned().unwrap_or_default());
        let output = command(berth, place).args(&words).output().unwrap();
        checked += usize::from(status < 300);
        found.extend(faults(tool, status >= 300, &output));
    }
    println!("{checked} answers from a shell");
    assert!(checked >= 40, "only {checked} readers answered from a shell");
    found
}

#[test]
fn a_call_is_written_as_the_usage_says() {
    let arguments =
        serde_json::json!({ "app": "web", "name": "KEY", "limit": 3, "facets": ["a", "b"], "raw": true });
    let words = words("berth variable reveal APP NAME", arguments.as_object().cloned().unwrap());
    assert_eq!(
        words,
        ["variable", "reveal", "web", "KEY", "--facets=a", "--facets=b", "--limit=3", "--raw=true"]
    );
}
