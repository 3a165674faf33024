//! Completions of names of apps, deployments and issues in prompts and resource templates.

use berth_schemas::Problem;
use berth_store::{IssueFilter, IssueOrder, model::Principal};
use berth_tools::{Context, Registry};
use rmcp::model::{CompleteRequestParams, CompletionInfo};

use crate::resources::ISSUE;

/// How many issues are looked through, those that were seen last first.
const ISSUES: i64 = 1_000;

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
    match request.argument.name.as_str() {
        "app" | "deployment" => {
            let mut names = context.store.apps().slugs(&principal.visible).await?;
            names.retain(|name| name.starts_with(typed.as_str()));
            names.sort();
            Ok(first(names))
        }
        // Names of issues tell what breaks: only for those who may read them.
        "issue" if registry.get(ISSUE).is_some_and(|tool| tool.permits(principal).is_ok()) => {
            Ok(first(issues(context, principal, typed).await?))
        }
        _ => Ok(CompletionInfo::default()),
    }
}

/// Short ids of issues that begin with what was typed, those that were seen last first.
async fn issues(context: &Context, principal: &Principal, typed: &str) -> Result<Vec<String>, Problem> {
    let all = IssueFilter::All(Vec::new());
    let errors = context.store.errors();
    let (rows, _) = errors.issues(&principal.visible, None, &all, IssueOrder::LastSeen, (0, ISSUES)).await?;
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
