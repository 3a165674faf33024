//! Completions of app names in prompts and resource templates.

use berth_schemas::Problem;
use berth_store::model::Principal;
use berth_tools::Context;
use rmcp::model::{CompleteRequestParams, CompletionInfo};

/// Names of apps that begin with what was typed; the deployment of an app is completed by its name alone,
/// which means its newest.
pub(crate) async fn complete(
    context: &Context,
    principal: &Principal,
    request: &CompleteRequestParams,
) -> Result<CompletionInfo, Problem> {
    if !matches!(request.argument.name.as_str(), "app" | "deployment") {
        return Ok(CompletionInfo::default());
    }
    let mut names = context.store.apps().slugs(&principal.visible).await?;
    names.retain(|name| name.starts_with(&request.argument.value));
    names.sort();
    let total = u32::try_from(names.len()).unwrap_or(u32::MAX);
    let more = names.len() > CompletionInfo::MAX_VALUES;
    names.truncate(CompletionInfo::MAX_VALUES);
    Ok(CompletionInfo::with_pagination(names, Some(total), more).unwrap_or_default())
}
