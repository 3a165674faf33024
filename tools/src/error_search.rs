//! Searching errors, by a grammar that is shown, and the index that answers.

use berth_observe::errors::search::{FIELDS, GRAMMAR};
use berth_schemas::{
    Problem, Scope, Timestamp,
    issue::{
        ErrorField, ErrorFieldList, ErrorFields, ErrorIndexRebuild, ErrorIndexState, ErrorSearch, IssuePage,
        IssueSort,
    },
};
use berth_store::{IssueOrder, IssueRow, model::AppId};

use crate::{
    errors::{line, summary, time},
    find, page,
    page::Keep,
    registry::{Brief, Call, Hints, Method, Spec, Tier, Tool},
    text::Text,
};

/// Facets of a search.
const MAX_FACETS: usize = 5;

pub(crate) fn tools() -> Vec<Tool> {
    vec![
        Tool::new(
            Spec::extended_read(
                "error_search",
                "Search errors",
                "Search error issues of one app or all, by words and fields: is:open level:error release:1.2.* user.email:a@b.example \"connection refused\". Sorted by last seen, first seen, events, users or relevance; facets count values. error_fields shows the grammar; error_get explains one.",
                "/v1/errors",
            ),
            search,
        ),
        Tool::new(
            Spec::extended_read(
                "error_fields",
                "Show how errors are searched",
                "Show the grammar and the fields by which errors can be searched, with an app's own tags.",
                "/v1/error-fields",
            ),
            fields,
        ),
        Tool::new(
            Spec {
                name: "error_index_rebuild",
                title: "Rebuild the error index",
                description: "Build the search index of errors anew from the store, while serving. Needed only when searches miss what error_event_list shows.",
                hints: Hints::UPDATE,
                scope: Scope::Admin,
                tier: Tier::Extended,
                method: Method::Post,
                path: "/v1/error-index/rebuild",
            },
            rebuild,
        ),
    ]
}

async fn search(call: Call, input: ErrorSearch) -> Result<IssuePage, Problem> {
    let limit = page::limit(input.limit, 20, 100)?;
    let offset = page::number_cursor(input.cursor.as_deref())?.unwrap_or(0);
    let app = match &input.app {
        Some(slug) => Some(find::app(&call, slug).await?.id),
        None => None,
    };
    let query = input.query.as_deref().map_or("is:open", str::trim);
    let now = time(&call);
    let view = &call.principal.visible;
    let sought = call.context.error_index.seek(query, view, app, now).await?;
    let sort = input.sort.unwrap_or(IssueSort::LastSeen);
    let errors = call.context.store.errors();
    let (rows, total) = match (sort, &sought.scores) {
        (IssueSort::Relevance, Some(scores)) => {
            let everything = (0, i64::try_from(scores.len()).unwrap_or(i64::MAX).min(2_000));
            let (mut rows, total) =
                errors.issues(view, app, &sought.filter, IssueOrder::LastSeen, everything).await?;
            let score = |row: &IssueRow| scores.get(&row.id).map_or(0.0, |hit| hit.score);
            rows.sort_by(|a, b| score(b).total_cmp(&score(a)).then(b.last_seen.cmp(&a.last_seen)));
            let skip = usize::try_from(offset).unwrap_or(usize::MAX);
            let take = usize::try_from(limit).unwrap_or(0);
            (rows.into_iter().skip(skip).take(take).collect(), total)
        }
        (sort, _) => {
            let order = match sort {
                IssueSort::FirstSeen => IssueOrder::FirstSeen,
                IssueSort::Events => IssueOrder::Events,
                IssueSort::Users => IssueOrder::Users,
                IssueSort::LastSeen | IssueSort::Relevance => IssueOrder::LastSeen,
            };
            errors.issues(view, app, &sought.filter, order, (offset, limit)).await?
        }
    };
    let mut issues: Vec<_> = rows.iter().map(summary).collect();
    let facets = facets(&call, &input, query, app, now).await?;
    let counted = serde_json::to_string(&facets).map_or(0, |text| text.len());
    let budget = call.budget.beside(counted);
    page::fit(&mut issues, Keep::First, budget, input.limit.is_some());
    let next = offset + i64::try_from(issues.len()).unwrap_or(0);
    Ok(IssuePage { issues, total, next_cursor: (next < total).then(|| next.to_string()), facets })
}

async fn facets(
    call: &Call,
    input: &ErrorSearch,
    query: &str,
    app: Option<AppId>,
    now: Timestamp,
) -> Result<Vec<berth_schemas::issue::Facet>, Problem> {
    let Some(fields) = input.facets.clone().filter(|f| !f.is_empty()) else { return Ok(Vec::new()) };
    if fields.len() > MAX_FACETS || fields.iter().any(|f| f.is_empty() || f.len() > 100) {
        return Err(Problem::invalid(
            "facets",
            format!("facets takes at most {MAX_FACETS} names of fields."),
        ));
    }
    call.context.error_index.facets(query, &call.principal.visible, app, now, fields).await
}

async fn fields(call: Call, input: ErrorFields) -> Result<ErrorFieldList, Problem> {
    let mut fields: Vec<ErrorField> = FIELDS
        .iter()
        .map(|(name, about)| ErrorField { name: (*name).into(), about: (*about).to_owned() })
        .collect();
    if let Some(slug) = &input.app {
        let app = find::app(&call, slug).await?;
        let names = call.context.error_index.names(app.id).await?;
        let tags = names.into_iter().filter(|n| FIELDS.iter().all(|(f, _)| f != n)).take(100);
        fields.extend(
            tags.map(|name| ErrorField { name: name.into(), about: format!("a tag of {}", app.slug) }),
        );
    }
    Ok(ErrorFieldList { grammar: GRAMMAR.to_owned(), fields })
}

async fn rebuild(call: Call, _: ErrorIndexRebuild) -> Result<ErrorIndexState, Problem> {
    find::demand_all_projects(&call, "error_index_rebuild")?;
    call.context.error_index.rebuild().await;
    let events = call.context.store.errors().highest_event().await?;
    Ok(ErrorIndexState { begun: true, events })
}

impl Brief for IssuePage {
    fn brief(&self) -> Text {
        if self.issues.is_empty() {
            return "No issue matches. error_search without a query lists the open ones; dsn_get shows how errors get here.".into();
        }
        let text = Text::from(format!("{} of {} issues:\n", self.issues.len(), self.total))
            .quote_lines(self.issues.iter().map(|i| line(i).into()));
        let text = self.facets.iter().fold(text, |text, facet| {
            let values: Vec<String> =
                facet.values.iter().map(|v| format!("{} ×{}", v.value.0, v.events)).collect();
            text.say(format!("\n{}: ", facet.field)).quote(&values.join(", ").into())
        });
        text.say_if(page::more(self.next_cursor.as_ref()))
    }
}

impl Brief for ErrorFieldList {
    fn brief(&self) -> Text {
        let lines = self.fields.iter().map(|f| format!("{}: {}", f.name.0, f.about).into());
        Text::from(format!("{}\nFields:\n", self.grammar)).quote_lines(lines)
    }
}

impl Brief for ErrorIndexState {
    fn brief(&self) -> Text {
        format!(
            "The index is being built anew from {} events; searches find what they found before until it is done.",
            self.events
        )
        .into()
    }
}
