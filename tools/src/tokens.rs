//! Access tokens.

use berth_schemas::{
    Problem, Scope, Timestamp,
    ids::TokenName,
    token::{TokenCreate, TokenCreated, TokenList, TokenMode, TokenPage, TokenRevoke, TokenRevoked},
};
use berth_store::model::NewToken;

use crate::{
    apps::count,
    confirm::confirmed,
    find,
    group::Group,
    page, proposals,
    registry::{Brief, Call, Hints, Method, Spec, Tier, Tool},
    text::Text,
};

pub(crate) fn tools() -> Vec<Tool> {
    vec![
        Tool::new(
            Spec {
                name: "token_list",
                title: "List access tokens",
                description: "List the access tokens with scopes, projects and last use; never their secrets.",
                hints: Hints::READ,
                scope: Scope::Admin,
                tier: Tier::Extended,
                method: Method::Get,
                path: "/v1/tokens",
            },
            list,
        ),
        Tool::new(
            Spec {
                name: "token_create",
                title: "Create an access token",
                description: "Create an access token for a person, a pipeline or an assistant, with as few scopes (read, deploy, write, secrets, admin) and projects as will do. mode=propose keeps what it would change for a person to approve; tools limits it to some. Its secret is returned this once.",
                hints: Hints::CREATE,
                scope: Scope::Admin,
                tier: Tier::Extended,
                method: Method::Post,
                path: "/v1/tokens",
            },
            create,
        ),
        Tool::new(
            Spec {
                name: "token_revoke",
                title: "Revoke an access token",
                description: "Stop an access token from working at once, for good. Wants confirm=<the token's name>.",
                hints: Hints::DESTROY,
                scope: Scope::Admin,
                tier: Tier::Extended,
                method: Method::Delete,
                path: "/v1/tokens/{token}",
            },
            revoke,
        ),
    ]
}

async fn list(call: Call, input: TokenList) -> Result<TokenPage, Problem> {
    find::demand_all_projects(&call, "token_list")?;
    let limit = page::limit_of_whole(input.limit)?;
    let after: Option<TokenName> = page::name_cursor(input.cursor.as_deref())?;
    let mut tokens = call.context.store.tokens().list().await?;
    tokens.retain(|token| after.as_ref().is_none_or(|a| token.name > *a));
    let more = page::cut_whole(&mut tokens, limit, call.budget, input.limit.is_some());
    let next_cursor = tokens.last().filter(|_| more).map(|t| t.name.to_string());
    Ok(TokenPage { tokens, next_cursor })
}

async fn create(call: Call, input: TokenCreate) -> Result<TokenCreated, Problem> {
    // A token restricted to projects must not make one that is not.
    find::demand_all_projects(&call, "token_create")?;
    for project in &input.projects {
        find::project(&call, project).await.map_err(|p| Problem { field: Some("projects".into()), ..p })?;
    }
    let expires_at = match input.expires_in_days {
        None => None,
        Some(days @ 1..=3650) => {
            Some(Timestamp(Timestamp::now().micros() + i64::from(days) * 86_400_000_000))
        }
        Some(days) => {
            let detail = format!("expires_in_days is {days}; it must be from 1 to 3650.");
            return Err(Problem::invalid("expires_in_days", detail));
        }
    };
    let mut scopes = if input.scopes.is_empty() { vec![Scope::Read] } else { input.scopes };
    scopes.sort();
    scopes.dedup();
    known_tools(&input.tools)?;
    let new = NewToken {
        name: input.name,
        scopes,
        projects: input.projects,
        mode: input.mode,
        tools: input.tools,
        expires_at,
    };
    let (token, secret) = call.context.store.tokens().create(&call.principal, new).await?;
    Ok(TokenCreated { token, secret })
}

/// Refuses names that are neither a tool's nor a group's: a token with a typo would be able to do nothing.
fn known_tools(names: &[String]) -> Result<(), Problem> {
    if names.len() > 100 {
        return Err(Problem::invalid("tools", "tools has at most 100 entries."));
    }
    let all = proposals::all();
    let exists = |name: &String| all.tools().iter().any(|t| t.is_in(name));
    let Some(unknown) = names.iter().find(|name| !exists(name)) else { return Ok(()) };
    let mut known: Vec<String> = all.tools().iter().map(|t| t.spec.name.to_owned()).collect();
    let groups: Vec<&str> = Group::ALL.iter().map(|g| g.as_str()).collect();
    known.extend(groups.iter().map(|g| (*g).to_owned()));
    let unknown: String = unknown.chars().take(80).collect();
    let candidates = berth_schemas::error::nearest(&unknown, &known);
    let detail = format!("tools: there is no tool and no group of tools {unknown:?}.");
    Err(Problem::invalid("tools", detail)
        .hint(format!("The groups are {}.", groups.join(", ")))
        .candidates(candidates))
}

async fn revoke(call: Call, input: TokenRevoke) -> Result<TokenRevoked, Problem> {
    find::demand_all_projects(&call, "token_revoke")?;
    let tokens = call.context.store.tokens();
    let known: Vec<String> = tokens.list().await?.into_iter().map(|t| t.name.to_string()).collect();
    let name = input.token.as_str();
    if !known.iter().any(|k| k == name) {
        let problem = Problem::not_found("token", name, &known);
        return Err(Problem { field: Some("token".into()), ..problem });
    }
    if input.dry_run {
        return Ok(TokenRevoked { token: input.token, revoked: false });
    }
    let mut effects = vec![format!("make every program that uses the token {name:?} stop working at once")];
    if name == call.principal.name {
        effects.push("lock you out: it is the token of this very call".into());
    }
    confirmed("token_revoke", name, input.confirm.as_deref(), &effects)?;
    tokens.revoke(&call.principal, &input.token).await?;
    Ok(TokenRevoked { token: input.token, revoked: true })
}

impl Brief for TokenPage {
    fn brief(&self) -> Text {
        let mut text = Text::from(count(self.tokens.len(), "token")).say(":");
        for t in &self.tokens {
            let scopes: Vec<&str> = t.scopes.iter().map(|s| s.as_str()).collect();
            let projects: Vec<&str> = t.projects.iter().map(|p| p.as_str()).collect();
            let projects = if projects.is_empty() { "all projects".into() } else { projects.join(", ") };
            text = text.say(format!("\n{} ({}…) {} on {projects}", t.name, t.prefix, scopes.join("+")));
            if t.mode != TokenMode::Full {
                text = text.say(format!(", {}", t.mode.as_str()));
            }
            if !t.tools.is_empty() {
                text = text.say(format!(", only {}", t.tools.join(", ")));
            }
            text = text.say_if(t.last_used_at.map(|at| format!(", last used {at}")));
            text = text.say_if(t.expires_at.map(|at| format!(", expires {at}")));
        }
        text.say_if(page::more(self.next_cursor.as_ref()))
    }
}

impl Brief for TokenCreated {
    fn brief(&self) -> Text {
        // The secret is in the output only, so that a client which logs texts does not keep it.
        format!(
            "The token {} is made; its secret is in the field secret and is not shown again.",
            self.token.name
        )
        .into()
    }
}

impl Brief for TokenRevoked {
    fn brief(&self) -> Text {
        let what = if self.revoked { "does not work any more" } else { "would stop working (dry run)" };
        format!("The token {} {what}.", self.token).into()
    }
}
