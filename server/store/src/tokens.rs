//! Access tokens: made once, shown once, kept as a hash.

use berth_schemas::{
    Scope,
    ids::TokenName,
    token::{Token, TokenMode},
};
use serde_json::json;
use sqlx::{Row, any::AnyRow};

use crate::{
    database::assembled,
    error::{Result, StoreError},
    key::KeyError,
    model::{NewEvent, NewToken, Principal, ProjectId, Visible},
    row,
    store::Inner,
    token_cache::hash,
    write::Write,
};

/// What every secret begins with, so that scanners for leaked secrets know it.
const PREFIX: &str = "berth_";
/// Random characters of a secret.
const RANDOM: usize = 40;
/// Characters of a secret that are shown.
const SHOWN: usize = PREFIX.len() + 6;

/// Tokens of a [`crate::Store`].
#[derive(Clone, Copy)]
pub struct Tokens<'a>(pub(crate) &'a Inner);

impl Tokens<'_> {
    /// Makes a token and returns it with its secret, which is kept nowhere.
    ///
    /// # Errors
    /// When the name is taken, or a project does not exist for the caller, or the caller is limited to
    /// projects and asks for a token that is not, or for a scope that it does not hold.
    pub async fn create(self, by: &Principal, new: NewToken) -> Result<(Token, String)> {
        if let Some(scope) = new.scopes.iter().find(|s| !by.may(**s)) {
            return Err(StoreError::Forbidden(format!(
                "a token with the scope {} can only be made with one that has it",
                scope.as_str()
            )));
        }
        if !by.is_full() {
            return Err(StoreError::Forbidden(
                "a token that is limited to a mode or to tools cannot make tokens".into(),
            ));
        }
        if new.projects.is_empty() && by.visible != Visible::All {
            return Err(StoreError::Forbidden(
                "a token that is limited to projects can only make tokens that are limited to them, too"
                    .into(),
            ));
        }
        let secret = random_secret(PREFIX)?;
        let mut write = Write::begin(self.0).await?;
        let token = insert(&mut write, by, new, &secret).await?;
        write.commit().await?;
        self.0.tokens.reload(self.0.read()).await?;
        Ok((token, secret))
    }

    /// Whose secret it is, or `None` if it belongs to no token and no grant or to one that has expired. Whoever asks
    /// must look at [`Principal::grant`]: an access token of a grant is good for one resource only. Asks memory only.
    #[must_use]
    pub fn find(self, secret: &str) -> Option<Principal> {
        self.0.tokens.find(secret, self.0.clock.now())
    }

    /// All tokens, by name.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn list(self) -> Result<Vec<Token>> {
        let rows = sqlx::query(
            "SELECT id, name, prefix, scopes, mode, tools, created_at, expires_at, last_used_at FROM tokens
             ORDER BY name",
        )
        .fetch_all(self.0.read())
        .await?;
        let links = sqlx::query(
            "SELECT t.token_id, p.slug FROM token_projects t JOIN projects p ON p.id = t.project_id ORDER BY p.slug",
        )
        .fetch_all(self.0.read())
        .await?;
        let unwritten = self.0.tokens.unwritten();
        rows.iter()
            .map(|r| {
                let mut token = from_row(r)?;
                let id: i64 = r.try_get("id")?;
                for link in &links {
                    if link.try_get::<i64, _>("token_id")? == id {
                        token.projects.push(row::name(link, "projects", "slug")?);
                    }
                }
                if let Some(used) =
                    unwritten.iter().find(|u| u.grant.is_none() && u.name == token.name.as_str())
                {
                    token.last_used_at = Some(berth_schemas::Timestamp(used.at));
                }
                Ok(token)
            })
            .collect()
    }

    /// Revokes a token, at once.
    ///
    /// # Errors
    /// When there is none of that name.
    pub async fn revoke(self, by: &Principal, name: &TokenName) -> Result<()> {
        let mut write = Write::begin(self.0).await?;
        let gone = sqlx::query("DELETE FROM tokens WHERE name = $1")
            .bind(name.as_str().to_owned())
            .execute(write.conn())
            .await?
            .rows_affected();
        if gone == 0 {
            let known = sqlx::query("SELECT name FROM tokens ORDER BY name").fetch_all(write.conn()).await?;
            let known = known.iter().filter_map(|r| r.try_get("name").ok()).collect();
            return Err(StoreError::NotFound { kind: "token", name: name.to_string(), known });
        }
        let event = NewEvent {
            kind: "token.revoked",
            by: by.name.clone(),
            app: None,
            summary: format!("Token {name} was revoked."),
            data: json!({ "token": name }),
        };
        write.event(event).await?;
        write.commit().await?;
        self.0.tokens.reload(self.0.read()).await
    }

    /// At the first start, makes a token with the scope `admin` and returns its secret; `None` if a token
    /// with that scope exists. Revoking the last one and restarting is thereby the way back in for whoever
    /// can restart the daemon.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn ensure_admin(self) -> Result<Option<String>> {
        let tokens = self.list().await?;
        let full = |t: &Token| t.mode == TokenMode::Full && t.tools.is_empty() && t.projects.is_empty();
        if tokens.iter().any(|t| t.scopes.contains(&Scope::Admin) && full(t)) {
            return Ok(None);
        }
        let taken = |name: &str| tokens.iter().any(|t| t.name.as_str() == name);
        let name = std::iter::once("admin".to_owned())
            .chain((2..).map(|n| format!("admin-{n}")))
            .find(|n| !taken(n))
            .and_then(|n| n.parse().ok())
            .ok_or_else(|| StoreError::conflict("no name is free for the admin token", "Revoke a token."))?;
        let new = NewToken {
            name,
            scopes: vec![Scope::Admin],
            projects: Vec::new(),
            mode: TokenMode::Full,
            tools: Vec::new(),
            expires_at: None,
        };
        self.create(&Principal::daemon(), new).await.map(|(_, secret)| Some(secret))
    }

    /// Writes the last uses of tokens. The store does it by itself once a minute.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn flush_last_used(self) -> Result<()> {
        let uses = self.0.tokens.unwritten();
        if uses.is_empty() {
            return Ok(());
        }
        let mut write = Write::begin(self.0).await?;
        for used in &uses {
            let (sql, key) = match &used.grant {
                None => ("UPDATE tokens SET last_used_at = $1 WHERE name = $2", used.name.clone()),
                Some(id) => ("UPDATE grants SET used_at = $1 WHERE id = $2", id.to_string()),
            };
            sqlx::query(sql).bind(used.at).bind(key).execute(write.conn()).await?;
        }
        write.commit().await?;
        self.0.tokens.written(&uses);
        Ok(())
    }
}

async fn insert(write: &mut Write<'_>, by: &Principal, new: NewToken, secret: &str) -> Result<Token> {
    let mut projects = new.projects.clone();
    projects.sort();
    projects.dedup();
    let now = write.now;
    let prefix: String = secret.chars().take(SHOWN).collect();
    let id: i64 = sqlx::query(
        "INSERT INTO tokens (name, hash, prefix, scopes, restricted, created_at, expires_at, mode, tools)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) RETURNING id",
    )
    .bind(new.name.as_str().to_owned())
    .bind(hex::encode(hash(secret)))
    .bind(prefix.clone())
    .bind(row::to_json("tokens", "scopes", &new.scopes)?)
    .bind(i64::from(!projects.is_empty()))
    .bind(now.0)
    .bind(new.expires_at.map(|t| t.0))
    .bind(new.mode.as_str())
    .bind(row::to_json("tokens", "tools", &new.tools)?)
    .fetch_one(write.conn())
    .await
    .map_err(|e| StoreError::taken(e, "token", new.name.as_str()))?
    .try_get("id")?;
    for project in &projects {
        let sql = format!(
            "SELECT id FROM projects WHERE slug = $1 AND {}",
            crate::database::visible(&by.visible, "id")
        );
        let found = sqlx::query(assembled(sql))
            .bind(project.as_str().to_owned())
            .fetch_optional(write.conn())
            .await?
            .ok_or_else(|| StoreError::not_found("project", project))?;
        sqlx::query("INSERT INTO token_projects (token_id, project_id) VALUES ($1, $2)")
            .bind(id)
            .bind(ProjectId(found.try_get("id")?).0)
            .execute(write.conn())
            .await?;
    }
    let event = NewEvent {
        kind: "token.created",
        by: by.name.clone(),
        app: None,
        summary: format!("Token {} was created.", new.name),
        data: json!({ "token": new.name, "scopes": new.scopes, "projects": projects, "mode": new.mode, "tools": new.tools }),
    };
    write.event(event).await?;
    Ok(Token {
        name: new.name,
        prefix,
        scopes: new.scopes,
        projects,
        mode: new.mode,
        tools: new.tools,
        created_at: now,
        expires_at: new.expires_at,
        last_used_at: None,
    })
}

/// The prefix and 40 characters of base 62, each equally likely.
pub(crate) fn random_secret(prefix: &str) -> Result<String> {
    const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let mut secret = String::with_capacity(prefix.len() + RANDOM);
    secret.push_str(prefix);
    let mut bytes = zeroize::Zeroizing::new([0u8; 64]);
    while secret.len() < prefix.len() + RANDOM {
        getrandom::fill(bytes.as_mut_slice()).map_err(|e| KeyError::NoEntropy(e.to_string()))?;
        // 248 is the largest multiple of 62 in a byte; what is above would favour the first characters.
        let usable = bytes.iter().filter(|b| **b < 248).map(|b| char::from(ALPHABET[usize::from(b % 62)]));
        secret.extend(usable.take(prefix.len() + RANDOM - secret.len()));
    }
    Ok(secret)
}

fn from_row(r: &AnyRow) -> Result<Token> {
    Ok(Token {
        name: row::name(r, "tokens", "name")?,
        prefix: r.try_get("prefix")?,
        scopes: row::json(r, "tokens", "scopes")?,
        projects: Vec::new(),
        mode: row::word(r, "tokens", "mode", TokenMode::parse)?,
        tools: row::json(r, "tokens", "tools")?,
        created_at: row::time(r, "created_at")?,
        expires_at: row::time_opt(r, "expires_at")?,
        last_used_at: row::time_opt(r, "last_used_at")?,
    })
}
