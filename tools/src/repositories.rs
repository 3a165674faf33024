//! Repositories on forges: which app has which, and how Berth hears of pushes.

use berth_forge::{
    DeployKey, RemoteName, fingerprint,
    request::{add_hook, default_branch_of, remove_hook, repository},
    webhook_secret,
};
use berth_schemas::{
    Code, Problem, Scope,
    repository::{
        ForgeKind, PollShown, Repository, RepositoryAuth, RepositoryConnect, RepositoryConnected,
        RepositoryDetail, RepositoryDisconnect, RepositoryDisconnected, RepositoryGet, RepositoryKey,
        WebhookRotate,
    },
};
use berth_store::{Credentials, Learnt, NewRepository, RepositoryRow, model::AppRow};

use crate::{
    confirm::confirmed,
    find,
    registry::{Brief, Call, Hints, Method, Spec, Tier, Tool},
    text::Text,
};

/// Minutes between two looks, if nothing else is said.
const POLL_MINUTES: u32 = 5;
/// The longest token or key, in bytes.
const LONGEST_SECRET: usize = 16 * 1024;

pub(crate) fn tools() -> Vec<Tool> {
    vec![
        Tool::new(
            Spec {
                name: "repository_connect",
                title: "Connect an app to its repository",
                description: "Connect an app to its repository on GitHub, GitLab, Gitea, Forgejo, Bitbucket or another git host, so that pushes deploy. Give an access_token, let Berth make a deploy key (auth=deploy_key) or use a GitHub App (auth=github_app); a public repository needs neither. Berth registers the webhook where the token allows; else the answer holds the exact values to paste. Calling it again for the same repository changes credentials and settings.",
                hints: Hints::UPDATE.open_world(),
                scope: Scope::Write,
                tier: Tier::Extended,
                method: Method::Put,
                path: "/v1/apps/{app}/repository",
            },
            connect,
        ),
        Tool::new(
            Spec {
                name: "repository_get",
                title: "See an app's repository",
                description: "Show the repository that an app is connected to: the last webhook and the last refused one, the last look for missed pushes, whether reports reach the forge, and what to do next.",
                hints: Hints::READ,
                scope: Scope::Read,
                tier: Tier::Extended,
                method: Method::Get,
                path: "/v1/apps/{app}/repository",
            },
            get,
        ),
        Tool::new(
            Spec {
                name: "repository_disconnect",
                title: "Disconnect an app from its repository",
                description: "Disconnect an app from its repository: pushes no longer deploy, the credentials are forgotten, and the webhook that Berth registered is removed. The app itself stays. Pass confirm = the app's name; dry_run shows what would be done.",
                hints: Hints::DESTROY.open_world(),
                scope: Scope::Write,
                tier: Tier::Extended,
                method: Method::Delete,
                path: "/v1/apps/{app}/repository",
            },
            disconnect,
        ),
        Tool::new(
            Spec {
                name: "repository_key",
                title: "Show an app's deploy key",
                description: "Show the public part of the SSH key that Berth made for an app's repository, to be added there as a deploy key with read access.",
                hints: Hints::READ,
                scope: Scope::Read,
                tier: Tier::Extended,
                method: Method::Get,
                path: "/v1/apps/{app}/repository/key",
            },
            key,
        ),
        Tool::new(
            Spec {
                name: "webhook_rotate",
                title: "Give a webhook a new secret",
                description: "Make a new secret for the webhook of an app's repository; what is signed with the old one is refused at once. Berth changes it at the forge if it registered the webhook; else the secret is shown once, to a token with the scope secrets, to be pasted there.",
                hints: Hints { idempotent: false, ..Hints::UPDATE }.open_world(),
                scope: Scope::Write,
                tier: Tier::Extended,
                method: Method::Post,
                path: "/v1/apps/{app}/repository/webhook",
            },
            rotate,
        ),
    ]
}

async fn connect(call: Call, input: RepositoryConnect) -> Result<RepositoryConnected, Problem> {
    let poll_minutes = input.poll_minutes.unwrap_or(POLL_MINUTES);
    if poll_minutes > 1440 {
        let detail = format!("poll_minutes is {poll_minutes}; it must be from 0 to 1440.");
        return Err(Problem::invalid("poll_minutes", detail));
    }
    let app = find::app_to_change(&call, &input.app).await?;
    let forges = &call.context.forges;
    let (url, in_url) = forges.parse(&input.git_url)?;
    let name = RemoteName::of(&url);
    let kind = input.forge.or_else(|| name.guess()).ok_or_else(|| {
        Problem::invalid("forge", format!("The host of {url} does not tell what kind of forge it is."))
            .hint("Pass forge=github, gitlab, gitea, forgejo, bitbucket or generic.")
    })?;
    let branch = input.branch.clone().filter(|b| !b.is_empty());
    if let Some(branch) = &branch {
        berth_deploy::source::git::GitRef::parse(branch)
            .map_err(|e| Problem::invalid("branch", format!("{e}.")))?;
    }
    let token = input.access_token.clone().or_else(|| in_url.as_ref().map(|c| c.secret.clone()));
    let user = input.username.clone().or_else(|| in_url.and_then(|c| c.user));
    let (credentials, public_key) = credentials(&call, &app, &input, kind, &name, token, user).await?;
    let ssh = url.transport() == berth_deploy::source::git::Transport::Ssh;
    match (&credentials, ssh) {
        (Credentials::DeployKey { .. }, false) => {
            return Err(Problem::invalid("git_url", "A deploy key works over SSH only.").hint(format!(
                "Use git@{}:{}.git.",
                url.host(),
                name.full_name
            )));
        }
        (Credentials::Token { .. } | Credentials::GithubApp { .. }, true) => {
            return Err(Problem::invalid("git_url", "A token works over HTTPS only.").hint(format!(
                "Use https://{}/{}.git.",
                url.host(),
                name.full_name
            )));
        }
        _ => {}
    }
    let new = NewRepository {
        url: url.as_str().to_owned(),
        forge: kind,
        full_name: name.full_name.clone(),
        branch,
        credentials,
        public_key,
        secret: webhook_secret()?,
        report: input.report.unwrap_or(true),
        poll_minutes: i64::from(poll_minutes),
    };
    let repositories = call.context.store.repositories();
    let row = repositories.connect(&call.principal, &app, new).await?;
    let mut left = Left::default();
    introduce(&call, &row, &mut left).await?;
    let row = current(&call, &app).await?;
    answer(&call, &row, left, true).await
}

/// What is left to do for the caller, in Berth's own words, and what the forge said, which are somebody else's.
#[derive(Default)]
struct Left {
    steps: Vec<String>,
    problems: Vec<Problem>,
}

impl Left {
    fn because(&mut self, step: impl Into<String>, why: Problem) {
        self.steps.push(step.into());
        self.problems.push(why);
    }
}

/// Who Berth is to be at the forge; with the public key, if it made one.
async fn credentials(
    call: &Call,
    app: &AppRow,
    input: &RepositoryConnect,
    kind: ForgeKind,
    name: &RemoteName,
    token: Option<String>,
    user: Option<String>,
) -> Result<(Credentials, Option<String>), Problem> {
    let auth = input.auth.unwrap_or(match (&token, &input.github_app) {
        (Some(_), _) => RepositoryAuth::Token,
        (None, Some(_)) => RepositoryAuth::GithubApp,
        (None, None) => RepositoryAuth::None,
    });
    let sane = |field: &str, text: &str| {
        if text.is_empty() || text.len() > LONGEST_SECRET || text.chars().any(|c| c == '\0') {
            return Err(Problem::invalid(field, format!("{field} is empty, too long or no text.")));
        }
        Ok(())
    };
    Ok(match auth {
        RepositoryAuth::None => (Credentials::None, None),
        RepositoryAuth::Token => {
            let token = token.map(|t| t.trim().to_owned()).ok_or_else(|| {
                Problem::invalid("access_token", "auth=token needs access_token.")
                    .hint("Make one at the forge that may read this repository, and pass it as access_token.")
            })?;
            sane("access_token", &token)?;
            if token.chars().any(|c| c.is_control() || c.is_whitespace()) {
                return Err(Problem::invalid("access_token", "The token has white space in it."));
            }
            (Credentials::Token { user, token }, None)
        }
        RepositoryAuth::DeployKey => {
            // A key that is at the forge already stays good.
            let known = call.context.store.repositories().of_app(app.id).await?;
            if let Some(row) = known.filter(|row| row.auth == RepositoryAuth::DeployKey) {
                let secrets = call.context.store.repositories().secrets(&row)?;
                return Ok((secrets.credentials, row.public_key));
            }
            let key = DeployKey::generate(app.slug.as_str())?;
            (Credentials::DeployKey { private_key: key.private_key }, Some(key.public_key))
        }
        RepositoryAuth::GithubApp => {
            let given = input.github_app.as_ref().ok_or_else(|| {
                Problem::invalid("github_app", "auth=github_app needs github_app: app_id and private_key.")
            })?;
            sane("app_id", &given.app_id)?;
            sane("private_key", &given.private_key)?;
            let base = match (kind, name.api(kind)) {
                (ForgeKind::Github, Some(base)) => base,
                _ => return Err(Problem::invalid("auth", "A GitHub App works with GitHub only.")),
            };
            let app = (given.app_id.as_str(), given.private_key.as_str());
            let installation_id = match given.installation_id {
                Some(id) => id,
                None => call.context.forges.find_installation(&base, app, &name.full_name).await?,
            };
            let (app_id, private_key) = (given.app_id.clone(), given.private_key.clone());
            (Credentials::GithubApp { app_id, private_key, installation_id }, None)
        }
    })
}

/// Learns from the forge what it tells of the repository, and registers the webhook, where the credentials allow.
/// What they do not allow becomes a step for the caller.
async fn introduce(call: &Call, row: &RepositoryRow, left: &mut Left) -> Result<(), Problem> {
    let forges = &call.context.forges;
    let repositories = call.context.store.repositories();
    let title = row.forge.title();
    let api = match forges.api(row).await {
        Ok(Some(api)) => api,
        Ok(None) => return Ok(()),
        Err(failure) => {
            left.because(
                format!("{title} cannot be asked with these credentials: problems says why."),
                failure.problem,
            );
            return Ok(());
        }
    };
    match api.call(&repository(row.forge, &row.full_name)).await {
        Ok(told) => {
            let remote_id = berth_forge::request::id_of(&told);
            repositories.learn(&row.id, Learnt { remote_id, branch: default_branch_of(&told) }).await?;
        }
        Err(failure) => left.because(
            format!("{title} did not show the repository with these credentials: problems says why."),
            failure.problem,
        ),
    }
    if row.forge_hook.is_none() {
        register(call, row, &api, left).await?;
    }
    Ok(())
}

async fn register(
    call: &Call,
    row: &RepositoryRow,
    api: &berth_forge::Api,
    left: &mut Left,
) -> Result<(), Problem> {
    let repositories = call.context.store.repositories();
    let secret = repositories.secrets(row)?.webhook;
    let url = call.context.forges.payload_url(&row.id);
    match api.call(&add_hook(row.forge, &row.full_name, &url, &secret.0)).await {
        Ok(made) => match berth_forge::request::id_of(&made) {
            Some(id) => repositories.set_hook(&row.id, Some(&id)).await?,
            None => left
                .steps
                .push(format!("{} registered the webhook, but told no id for it.", row.forge.title())),
        },
        Err(failure) => left.because(
            "The webhook could not be registered: problems says why. Set it up by hand with the values of this answer.",
            failure.problem,
        ),
    }
    Ok(())
}

async fn answer(
    call: &Call,
    row: &RepositoryRow,
    left: Left,
    show: bool,
) -> Result<RepositoryConnected, Problem> {
    let Left { mut steps, problems } = left;
    let name = call.context.forges.parse(&row.url).ok().map(|(url, _)| RemoteName::of(&url));
    if let Some(key) = &row.public_key {
        let page = name.as_ref().and_then(|n| n.keys_page(row.forge));
        let at = page.map(|p| format!(" at {p}")).unwrap_or_default();
        steps.push(format!(
            "Add this public key to the repository as a deploy key with read access{at}: {key}"
        ));
    }
    let mut secret = None;
    if row.forge_hook.is_none() {
        let may = call.principal.may(Scope::Secrets);
        if show && may {
            secret = Some(call.context.store.repositories().secrets(row)?.webhook.0);
        }
        let webhook = call.context.forges.webhook(row, None);
        let at = webhook.page.map(|p| format!(" at {p}")).unwrap_or_default();
        let which = match row.forge {
            ForgeKind::Generic => {
                "Send a signed message at each push (see the API's documentation)".to_owned()
            }
            kind => format!("Add a webhook{at} on {}", kind.title()),
        };
        let with = if may {
            "the secret of this answer, which is shown this once"
        } else {
            "a secret: webhook_rotate shows it to a token with the scope secrets"
        };
        steps.push(format!(
            "{which}: payload URL {}, content type {}, events {}, and {with}.",
            webhook.payload_url,
            webhook.content_type,
            webhook.events.join(", ")
        ));
        if row.poll_minutes > 0 {
            steps.push(format!("Until then, Berth looks for pushes every {} minutes.", row.poll_minutes));
        }
    }
    Ok(RepositoryConnected {
        repository: shown(call, row),
        webhook: call.context.forges.webhook(row, secret),
        public_key: row.public_key.clone(),
        steps,
        problems,
    })
}

fn shown(call: &Call, row: &RepositoryRow) -> Repository {
    Repository {
        app: row.app.clone(),
        url: row.url.clone(),
        forge: row.forge,
        full_name: row.full_name.clone(),
        branch: row.branch.clone(),
        auth: row.auth,
        webhook_registered: row.forge_hook.is_some(),
        payload_url: call.context.forges.payload_url(&row.id),
        host_keys: host_keys(call, row),
        last_delivery: row.last_delivery.clone(),
        last_refusal: row.last_refusal.clone(),
        poll: PollShown {
            every_minutes: row.poll_minutes,
            last_at: row.polled_at,
            next_at: (row.poll_minutes > 0).then_some(row.poll_at),
            failures: row.poll_failures,
            problem: row.poll_problem.clone(),
        },
        report: row.report,
        report_problem: row.report_problem.clone(),
        connected_at: row.created_at,
        connected_by: row.created_by.clone(),
    }
}

/// Fingerprints of the host's keys that are trusted.
fn host_keys(call: &Call, row: &RepositoryRow) -> Vec<String> {
    use berth_deploy::source::git::{Transport, known_host_keys};
    match call.context.forges.parse(&row.url) {
        Ok((url, _)) if url.transport() == Transport::Ssh => {
            let keys = known_host_keys(&call.context.data_dir, url.host());
            keys.iter().filter_map(|key| fingerprint(key)).collect()
        }
        _ => Vec::new(),
    }
}

async fn current(call: &Call, app: &AppRow) -> Result<RepositoryRow, Problem> {
    let row = call.context.store.repositories().of_app(app.id).await?;
    row.ok_or_else(|| {
        Problem::new(Code::NotFound, format!("The app {} is connected to no repository.", app.slug))
            .hint(format!("Connect it with repository_connect(app={:?}, git_url=…).", app.slug.as_str()))
    })
}

async fn get(call: Call, input: RepositoryGet) -> Result<RepositoryDetail, Problem> {
    let app = find::app(&call, &input.app).await?;
    let row = current(&call, &app).await?;
    let next = next(&row);
    Ok(RepositoryDetail { repository: shown(&call, &row), next })
}

fn next(row: &RepositoryRow) -> String {
    let app = row.app.as_str();
    let refused_last = match (&row.last_refusal, &row.last_delivery) {
        (Some(refused), Some(taken)) => refused.at > taken.at,
        (Some(_), None) => true,
        _ => false,
    };
    if refused_last {
        return format!(
            "The last webhook was refused: see last_refusal. If the secret is wrong, webhook_rotate(app={app:?}) makes a new one."
        );
    }
    if let Some(problem) = &row.poll_problem {
        let hint = problem.hint.as_ref().map(|hint| format!(" {hint}")).unwrap_or_default();
        return format!("The repository could not be looked at: poll.problem says why.{hint}");
    }
    if row.report_problem.is_some() {
        return "The forge does not take reports: report_problem says why.".into();
    }
    match (&row.last_delivery, row.poll_minutes) {
        (None, 0) => "No webhook has come yet, and Berth does not look by itself: set up the webhook.".into(),
        (None, minutes) => {
            format!("No webhook has come yet; Berth looks for pushes every {minutes} minutes.")
        }
        (Some(_), _) => format!("Nothing: pushes arrive. push_list(app={app:?}) shows what they led to."),
    }
}

async fn key(call: Call, input: RepositoryGet) -> Result<RepositoryKey, Problem> {
    let app = find::app(&call, &input.app).await?;
    let row = current(&call, &app).await?;
    let public_key = row.public_key.clone().ok_or_else(|| {
        Problem::new(
            Code::NotFound,
            format!("The repository of {} is not reached by a deploy key.", app.slug),
        )
        .hint("repository_connect with auth=deploy_key makes one.")
    })?;
    let name = call.context.forges.parse(&row.url).ok().map(|(url, _)| RemoteName::of(&url));
    Ok(RepositoryKey {
        fingerprint: fingerprint(&public_key).unwrap_or_default(),
        public_key,
        page: name.and_then(|n| n.keys_page(row.forge)),
    })
}

async fn disconnect(call: Call, input: RepositoryDisconnect) -> Result<RepositoryDisconnected, Problem> {
    let app = find::app(&call, &input.app).await?;
    let row = current(&call, &app).await?;
    let mut effects = vec![
        format!("forget {} and its credentials; pushes to it no longer deploy", row.url),
        "keep the app, its releases and its deployments".to_owned(),
    ];
    match &row.forge_hook {
        Some(id) => effects.push(format!("remove the webhook {id} from {}", row.forge.title())),
        None => effects.push("refuse webhooks that still come; remove the one you set up by hand".to_owned()),
    }
    if row.public_key.is_some() {
        effects.push(
            "leave the deploy key at the forge, where it opens nothing any more; remove it there".to_owned(),
        );
    }
    if input.dry_run {
        return Ok(RepositoryDisconnected { done: false, effects, problems: Vec::new() });
    }
    confirmed("repository_disconnect", app.slug.as_str(), input.confirm.as_deref(), &effects)?;
    let mut problems = Vec::new();
    if let Err(why) = unregister(&call, &row).await {
        effects.push(
            "leave the webhook at the forge, which did not let it be removed: problems says why".into(),
        );
        problems.push(why);
    }
    call.context.store.repositories().disconnect(&call.principal, &row).await?;
    Ok(RepositoryDisconnected { done: true, effects, problems })
}

/// Removes the webhook that Berth registered. One that is gone already is no error.
async fn unregister(call: &Call, row: &RepositoryRow) -> Result<(), Problem> {
    let Some(hook) = &row.forge_hook else { return Ok(()) };
    let api = call.context.forges.api(row).await.map_err(|f| f.problem)?;
    let Some(api) = api else {
        return Err(Problem::new(Code::Forbidden, "The credentials do not allow it."));
    };
    match api.call(&remove_hook(row.forge, &row.full_name, hook)).await {
        Err(failure) if !failure.problem.detail.contains(" 404 ") => Err(failure.problem),
        _ => Ok(()),
    }
}

async fn rotate(call: Call, input: WebhookRotate) -> Result<RepositoryConnected, Problem> {
    let app = find::app_to_change(&call, &input.app).await?;
    let row = current(&call, &app).await?;
    let by_hand = row.forge_hook.is_none();
    if by_hand && !call.principal.may(Scope::Secrets) {
        return Err(Problem::new(
            Code::Forbidden,
            format!(
                "The new secret would have to be shown, and the token {:?} lacks the scope secrets.",
                call.principal.name
            ),
        )
        .hint("Use a token with the scope secrets."));
    }
    let row = call.context.store.repositories().rotate(&call.principal, &row, &webhook_secret()?).await?;
    let mut left = Left::default();
    if !by_hand {
        if let Err(why) = unregister(&call, &row).await {
            left.because("The old webhook stays at the forge: problems says why. Remove it there.", why);
        }
        call.context.store.repositories().set_hook(&row.id, None).await?;
        let row = current(&call, &app).await?;
        if let Ok(Some(api)) = call.context.forges.api(&row).await {
            register(&call, &row, &api, &mut left).await?;
        }
    }
    let row = current(&call, &app).await?;
    answer(&call, &row, left, true).await
}

/// Adds why the forge did not allow something.
fn told(text: Text, problems: &[Problem]) -> Text {
    problems.iter().fold(text, |text, problem| text.say("\nProblem: ").tell(problem))
}

impl Brief for RepositoryConnected {
    fn brief(&self) -> Text {
        let r = &self.repository;
        let text = Text::from(format!("{} is connected to {} ({}).", r.app, r.url, r.forge.as_str()));
        let text = match (self.webhook.registered, &self.webhook.secret) {
            (true, _) => text.say(" The webhook is registered."),
            (false, Some(_)) => text.say(" The webhook's secret is in the answer, this once."),
            (false, None) => text,
        };
        let text = self.steps.iter().fold(text, |text, step| text.say(format!("\n- {step}")));
        told(text, &self.problems)
    }
}

impl Brief for RepositoryDetail {
    fn brief(&self) -> Text {
        let r = &self.repository;
        let mut text = Text::from(format!("{} deploys from {} ({}", r.app, r.url, r.forge.as_str()));
        if let Some(branch) = &r.branch {
            text = text.say(", branch ").quote(&branch.as_str().into());
        }
        text = text.say(").");
        if let Some(taken) = &r.last_delivery {
            text = text.say(format!(" Last webhook at {}: ", taken.at)).quote(&taken.event);
            text = text.say(", ").quote(&taken.outcome).say(".");
        }
        for problem in [&r.poll.problem, &r.report_problem].into_iter().flatten() {
            text = text.say(" ").tell(problem);
        }
        text.say(format!(" Next: {}", self.next))
    }
}

impl Brief for RepositoryDisconnected {
    fn brief(&self) -> Text {
        let said = if self.done { "Disconnected. Done: " } else { "Nothing was done. It would: " };
        told(Text::from(format!("{said}{}.", self.effects.join("; "))), &self.problems)
    }
}

impl Brief for RepositoryKey {
    fn brief(&self) -> Text {
        let at = self.page.as_ref().map(|p| format!(" Add it at {p}.")).unwrap_or_default();
        Text::from(format!("{} ({}).{at}", self.public_key, self.fingerprint))
    }
}
