//! The rule for what cannot be had back: say what goes, and go on only when the exact name was given.

use berth_schemas::{Code, Problem};

/// Refuses unless `confirm` is exactly `name`; the refusal says what to pass and what would happen.
pub(crate) fn confirmed(
    tool: &str,
    name: &str,
    confirm: Option<&str>,
    effects: &[String],
) -> Result<(), Problem> {
    if confirm == Some(name) {
        return Ok(());
    }
    let said = match confirm {
        None => format!("{tool} wants a confirmation."),
        Some(other) => {
            let other: String = other.chars().take(60).collect();
            format!("{tool} wants confirm={name:?}, not {other:?}.")
        }
    };
    let detail = format!("{said} It would: {}.", effects.join("; "));
    Err(Problem { field: Some("confirm".into()), ..Problem::new(Code::ConfirmationRequired, detail) }
        .hint(format!("If that is what is wanted, call again with confirm={name:?}."))
        .candidates(vec![name.to_owned()]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_exact_name_confirms() {
        let effects = ["remove 3 releases".to_owned()];
        assert!(confirmed("app_delete", "web", Some("web"), &effects).is_ok());
        for wrong in [None, Some(""), Some("Web"), Some("web "), Some("yes")] {
            let problem = confirmed("app_delete", "web", wrong, &effects).unwrap_err();
            assert_eq!(problem.code, Code::ConfirmationRequired);
            assert!(problem.detail.contains("remove 3 releases"));
            assert_eq!(problem.candidates, ["web"], "what would confirm it");
            assert!(problem.hint.unwrap().contains("confirm=\"web\""));
        }
    }
}
