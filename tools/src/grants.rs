//! Grants: clients that act for whoever approved them with a token.

use berth_schemas::{
    Problem, Scope,
    grant::{Grant, GrantList, GrantPage, GrantRevoke, GrantRevoked},
    token::TokenMode,
};

use crate::{
    apps::count,
    confirm::confirmed,
    find, page,
    registry::{Brief, Call, Hints, Method, Spec, Tier, Tool},
    text::Text,
};

pub(crate) fn tools() -> Vec<Tool> {
    vec![
        Tool::new(
            Spec {
                name: "grant_list",
                title: "List approved clients",
                description: "List the clients (assistants, connectors) that people approved in a browser, each with the token it was approved with, what it may do and its last use. End one with grant_revoke.",
                hints: Hints::READ,
                scope: Scope::Admin,
                tier: Tier::Extended,
                method: Method::Get,
                path: "/v1/grants",
            },
            list,
        ),
        Tool::new(
            Spec {
                name: "grant_revoke",
                title: "End an approved client's access",
                description: "Stop a client that was approved in a browser from working at once; it has to be approved anew. Wants confirm=<the grant's id>. Revoking the token that approved it does the same for all of its clients.",
                hints: Hints::DESTROY,
                scope: Scope::Admin,
                tier: Tier::Extended,
                method: Method::Delete,
                path: "/v1/grants/{grant}",
            },
            revoke,
        ),
    ]
}

async fn list(call: Call, input: GrantList) -> Result<GrantPage, Problem> {
    find::demand_all_projects(&call, "grant_list")?;
    let limit = page::limit_of_whole(input.limit)?;
    let skip = page::number_cursor(input.cursor.as_deref())?.unwrap_or(0);
    let grants = call.context.store.grants().list().await?;
    let mut grants: Vec<_> = grants.into_iter().skip(usize::try_from(skip).unwrap_or(usize::MAX)).collect();
    let more = page::cut_whole(&mut grants, limit, call.budget, input.limit.is_some());
    let next_cursor = more.then(|| page::skipped(skip, grants.len()));
    Ok(GrantPage { grants, next_cursor })
}

async fn revoke(call: Call, input: GrantRevoke) -> Result<GrantRevoked, Problem> {
    find::demand_all_projects(&call, "grant_revoke")?;
    let grants = call.context.store.grants();
    let known = grants.list().await?;
    if !known.iter().any(|g| g.grant == input.grant) {
        let known: Vec<String> = known.into_iter().map(|g| g.grant.to_string()).collect();
        let problem = Problem::not_found("grant", input.grant.as_str(), &known);
        return Err(Problem { field: Some("grant".into()), ..problem });
    }
    if input.dry_run {
        return Ok(GrantRevoked { grant: input.grant, revoked: false });
    }
    let mut effects = vec!["make the client stop working at once, until somebody approves it again".into()];
    if call.principal.grant.as_ref().is_some_and(|g| g.id == input.grant) {
        effects.push("lock you out: it is the grant of this very call".into());
    }
    confirmed("grant_revoke", input.grant.as_str(), input.confirm.as_deref(), &effects)?;
    grants.revoke(&call.principal, &input.grant).await?;
    Ok(GrantRevoked { grant: input.grant, revoked: true })
}

fn line(grant: &Grant) -> Text {
    let scopes: Vec<&str> = grant.scopes.iter().map(|s| s.as_str()).collect();
    let projects: Vec<&str> = grant.projects.iter().map(|p| p.as_str()).collect();
    let projects = if projects.is_empty() { "its token's projects".into() } else { projects.join(", ") };
    let text = Text::from(format!("\n{} ", grant.grant)).quote(&grant.client);
    let text = text.say(format!(", approved with {}: {} on {projects}", grant.approved_by, scopes.join("+")));
    let mode = (grant.mode != TokenMode::Full).then(|| format!(", {}", grant.mode.as_str()));
    let text = text.say_if(mode);
    text.say_if(grant.last_used_at.map(|at| format!(", last used {at}")))
}

impl Brief for GrantPage {
    fn brief(&self) -> Text {
        let text = Text::from(count(self.grants.len(), "approved client"));
        let text = self.grants.iter().fold(text, |text, grant| text.join(line(grant)));
        text.say_if(page::more(self.next_cursor.as_ref()))
    }
}

impl Brief for GrantRevoked {
    fn brief(&self) -> Text {
        let what = if self.revoked { "has ended" } else { "would end (dry run)" };
        format!("The grant {} {what}.", self.grant).into()
    }
}
