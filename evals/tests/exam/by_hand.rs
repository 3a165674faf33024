//! The exam from the command line, as an agent that can only run commands would sit it.

use std::{path::Path, process::Output};

use berth_evals::{harness::task::Task, program::program};

use crate::{berth, root};

fn evals(berth: &Path, state: &Path, arguments: &[&str]) -> (i32, String) {
    let mut command = program(env!("CARGO_BIN_EXE_berth-evals"));
    command.arg("--berth").arg(berth).args(arguments).env("TMPDIR", state);
    command.env_remove("ANTHROPIC_API_KEY").env_remove("OPENAI_API_KEY");
    let Output { status, stdout, stderr } = command.output().unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    (status.code().unwrap_or(-1), said)
}

/// Whether a process of this folder's daemon runs.
fn runs(folder: &Path) -> bool {
    let folder = folder.display().to_string();
    std::fs::read_dir("/proc").unwrap().flatten().any(|entry| {
        let command = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command).replace('\0', " ");
        command.contains("serve") && command.contains(&folder)
    })
}

#[test]
fn a_task_is_sat_step_by_step() {
    let Some(berth) = berth() else { return };
    let home = tempfile::tempdir().unwrap();
    let step = |arguments: &[&str]| {
        evals(&berth, home.path(), &[&["act", "change-end-maintenance"][..], arguments].concat())
    };
    let (code, said) = step(&["list"]);
    assert_eq!(code, 0, "{said}");
    for there in
        [&Task::named(root(), "change-end-maintenance").unwrap().prompt, "tool_search:", "Berth deploys apps"]
    {
        assert!(said.contains(there), "{there}");
    }
    assert!(runs(home.path()));
    let (code, said) = step(&["call", "app_get", r#"{"app": "wikki"}"#]);
    assert!(code == 1 && said.starts_with("Refused: ") && said.contains("wiki"), "{code} {said}");
    let (code, said) =
        step(&["call", "tool_write", r#"{"name": "traffic_resume", "arguments": {"app": "wiki"}}"#]);
    assert_eq!(code, 0, "{said}");
    let (code, said) = step(&["finish", "The wiki is open."]);
    assert!(code == 0 && said.contains("pass@1 1.000"), "{code} {said}");
    assert!(!runs(home.path()));
}

#[test]
fn an_answer_without_the_deed_does_not_pass() {
    let Some(berth) = berth() else { return };
    let home = tempfile::tempdir().unwrap();
    let (code, said) =
        evals(&berth, home.path(), &["act", "change-end-maintenance", "finish", "It is open."]);
    assert!(code == 1 && said.contains("is maintenance, not open"), "{code} {said}");
    assert!(!runs(home.path()));
    let left: Vec<_> = std::fs::read_dir(home.path()).unwrap().flatten().map(|e| e.file_name()).collect();
    assert_eq!(left.len(), 1, "only the folder for the next sitting: {left:?}");
}

#[test]
fn a_model_without_a_key_is_skipped() {
    let Some(berth) = berth() else { return };
    let home = tempfile::tempdir().unwrap();
    for adapter in ["anthropic", "openai"] {
        let (code, said) = evals(&berth, home.path(), &["run", "--adapter", adapter]);
        assert!(code == 0 && said.starts_with("skipped: no key"), "{code} {said}");
    }
}
