//! Completions of names of apps, deployments and issues in prompts and resource templates. A name is offered only to
//! whom a tool would list it: completing must tell nobody more.

use berth_schemas::Problem;
use berth_store::{IssueFilter, IssueOrder, model::Principal};
use berth_tools::{Context, Registry};
use rmcp::model::{CompleteRequestParams, CompletionInfo};

/// The tool that lists apps.
const APPS: &str = "app_list";
/// The tool that lists issues.
const ISSUES: &str = "error_search";
/// How many issues are looked through, those that were seen last first.
const MOST_ISSUES: i64 = 1_000;

/// Names that begin with what was typed, of apps or issues; the deployment of an app is completed by its name alone,
/// which means its newest. Nothing for any other argument.
///
/// # Errors
/// When the database fails.
pub(crate) async fn complete(
    context: &Context,
    registry: &Registry,
    principal: &Principal,
    request: &CompleteRequestParams,
) -> Result<CompletionInfo, Problem> {
    let typed = &request.argument.value;
    let lists = |tool: &str| registry.get(tool).is_some_and(|tool| tool.permits(principal).is_ok());
    match request.argument.name.as_str() {
        "app" | "deployment" if lists(APPS) => {
            let mut names = context.store.apps().slugs(&principal.visible).await?;
            names.retain(|name| name.starts_with(typed.as_str()));
            names.sort();
            Ok(first(names))
        }
        "issue" if lists(ISSUES) => Ok(first(issues(context, principal, typed).await?)),
        _ => Ok(CompletionInfo::default()),
    }
}

/// Short ids of issues that begin with what was typed, those that were seen last first.
async fn issues(context: &Context, principal: &Principal, typed: &str) -> Result<Vec<String>, Problem> {
    let all = IssueFilter::All(Vec::new());
    let errors = context.store.errors();
    let (rows, _) =
        errors.issues(&principal.visible, None, &all, IssueOrder::LastSeen, (0, MOST_ISSUES)).await?;
    let typed = typed.to_ascii_uppercase();
    let names = rows.iter().map(|row| row.reference().to_string());
    Ok(names.filter(|name| name.to_ascii_uppercase().starts_with(&typed)).collect())
}

/// As many as one answer may have.
fn first(mut names: Vec<String>) -> CompletionInfo {
    let total = u32::try_from(names.len()).unwrap_or(u32::MAX);
    let more = names.len() > CompletionInfo::MAX_VALUES;
    names.truncate(CompletionInfo::MAX_VALUES);
    CompletionInfo::with_pagination(names, Some(total), more).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lists_names_is_a_tool() {
        let registry = berth_tools::registry();
        for tool in [APPS, ISSUES] {
            assert!(registry.get(tool).is_some_and(|tool| tool.is_harmless()), "{tool}");
        }
    }
}
