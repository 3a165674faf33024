//! Prompts: the three jobs that people start most, written out as a procedure.

use rmcp::{
    ErrorData,
    model::{GetPromptRequestParams, GetPromptResult, Prompt, PromptArgument, PromptMessage, Role},
};

struct Recipe {
    name: &'static str,
    title: &'static str,
    description: &'static str,
    /// Name, description, required.
    arguments: &'static [(&'static str, &'static str, bool)],
    text: &'static str,
}

const RECIPES: &[Recipe] = &[
    Recipe {
        name: "deploy_repository",
        title: "Deploy a repository",
        description: "Bring a git repository into service as a new or existing app.",
        arguments: &[
            ("git_url", "Git repository (https or ssh URL)", true),
            ("app", "Name of the app", true),
            ("git_ref", "Branch, tag or commit; default: the repository's default branch", false),
        ],
        text: "Deploy {git_url} {git_ref} as the app {app} with Berth.\n\
            1. Call deployment_create with app, git_url, create_app=true and wait_s=50.\n\
            2. Call deployment_get(wait_s=50) until settled is true.\n\
            3. If it failed, read problem and deployment_log, say what is wrong, and correct what can be corrected with \
            app_update or variable_set before you deploy again. Do not repeat the same call without a change.\n\
            4. When it is live, open its URL or check request_list, and report URL, duration and anything unusual.",
    },
    Recipe {
        name: "why_did_the_deploy_fail",
        title: "Why did the deploy fail?",
        description: "Find the cause of a failed deployment and propose the fix.",
        arguments: &[("deployment", "Which, such as web#42; the app's name means its newest", true)],
        text: "Find out why the deployment {deployment} failed.\n\
            1. Call deployment_get and read problem: code, step, last lines.\n\
            2. Call deployment_log; with contains=\"error\" if it is long.\n\
            3. Compare with the last deployment that went well: deployment_list, and settings by app_get.\n\
            4. Report the cause with its evidence, and the smallest fix. Change nothing before I agree.",
    },
    Recipe {
        name: "why_is_it_down",
        title: "Why is it down?",
        description: "Find out why an app does not answer as it should, and what would bring it back.",
        arguments: &[("app", "Name of the app", true)],
        text: "Find out why the app {app} does not work as it should.\n\
            1. Call app_get: state, replicas with restarts and exit codes, newest deployment, pending changes.\n\
            2. Call log_search with level=\"error\", then without, around the time it began.\n\
            3. Call request_list with status=\"5xx\"; an error field says that Berth answered in place of the app.\n\
            4. If it began with a deployment, name it: release_rollback would bring the one before back.\n\
            5. If several apps are affected, call platform_status.\n\
            Report cause, evidence and the quickest safe remedy. Change nothing before I agree.",
    },
];

pub(crate) fn list() -> Vec<Prompt> {
    RECIPES.iter().map(describe).collect()
}

fn describe(recipe: &Recipe) -> Prompt {
    let argument = |(name, description, required): &(&str, &str, bool)| {
        PromptArgument::new(*name).with_description(*description).with_required(*required)
    };
    let arguments = recipe.arguments.iter().map(argument).collect();
    Prompt::new(recipe.name, Some(recipe.description), Some(arguments)).with_title(recipe.title)
}

pub(crate) fn get(request: &GetPromptRequestParams) -> Result<GetPromptResult, ErrorData> {
    let Some(recipe) = RECIPES.iter().find(|r| r.name == request.name) else {
        let known: Vec<&str> = RECIPES.iter().map(|r| r.name).collect();
        return Err(ErrorData::invalid_params(
            format!("There is no such prompt; there are {}.", known.join(", ")),
            None,
        ));
    };
    let mut text = recipe.text.to_owned();
    for (name, _, required) in recipe.arguments {
        let given = request
            .arguments
            .as_ref()
            .and_then(|a| a.get(*name))
            .and_then(|v| v.as_str())
            .unwrap_or_default();
        if *required && given.is_empty() {
            return Err(ErrorData::invalid_params(format!("The prompt {} needs {name}.", recipe.name), None));
        }
        text = text.replace(&format!("{{{name}}}"), given);
    }
    let text = text.replace("  ", " ");
    Ok(GetPromptResult::new(vec![PromptMessage::new_text(Role::User, text)])
        .with_description(recipe.description))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recipes_name_only_tools_that_exist() {
        let registry = berth_tools::registry();
        for recipe in RECIPES {
            let words = recipe.text.split(|c: char| !(c.is_ascii_lowercase() || c == '_'));
            let nouns = ["app_", "deployment_", "release_", "log_", "request_", "platform_", "variable_"];
            for word in words.filter(|w| nouns.iter().any(|n| w.starts_with(n) && w.len() > n.len())) {
                assert!(registry.get(word).is_some(), "{}: {word}", recipe.name);
            }
            for (name, ..) in recipe.arguments {
                assert!(recipe.text.contains(&format!("{{{name}}}")), "{}: {name}", recipe.name);
            }
        }
    }

    #[test]
    fn a_missing_argument_is_named() {
        let problem = get(&GetPromptRequestParams::new("why_is_it_down")).unwrap_err();
        assert!(problem.message.contains("app"), "{}", problem.message);
    }
}
