//! Prompts: the jobs that people start most, each written out as a procedure.

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
    Recipe {
        name: "what_broke_since_the_last_deploy",
        title: "What broke since the last deploy?",
        description: "Compare an app before and after its newest deployment: errors, failed requests, logs.",
        arguments: &[("app", "Name of the app", true)],
        text: "Find out what broke in the app {app} since its last deployment. Call with tool_read what is not in your list.\n\
            1. Call deployment_list: when the newest went live, its commit, and what was live before.\n\
            2. Call error_release_compare: issues that are new or came back, and how often.\n\
            3. Call error_get for each of the worst: where in the code, since when, which commits.\n\
            4. Call request_list with status=\"5xx\", and log_search with level=\"error\", since it went live; look whether \
            the same was there before.\n\
            5. If the app reports no errors to Berth, say so: then requests and logs are all the evidence.\n\
            Report what broke, since when, for how many, which commit is likely the cause, and whether release_rollback \
            would undo it. Change nothing before I agree.",
    },
    Recipe {
        name: "set_up_a_domain",
        title: "Set up a domain",
        description: "Serve an app under a host name of one's own, with a certificate.",
        arguments: &[
            ("domain", "Host name, such as shop.example.com", true),
            ("app", "Name of the app", true),
        ],
        text: "Serve the app {app} under the domain {domain}. Find the tools with tool_search if they are not in your list.\n\
            1. Call domain_get: the domain may be there already.\n\
            2. If it is not, call domain_add with domain and app.\n\
            3. Call domain_get with check_dns=true and tell me exactly which DNS records to set: name, type, value. Wait \
            until I say that they are set.\n\
            4. Call domain_verify with wait_s=50, then domain_get. If there is no certificate, report the error in its own \
            words and what to correct. Do not try again without a change: certificate authorities limit tries.\n\
            5. Report the URL, until when the certificate is valid, and ask whether www or the bare name is to lead here \
            too (domain_add with redirect_to).",
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
        let nouns: Vec<String> = registry
            .tools()
            .iter()
            .filter_map(|t| t.spec.name.split('_').next().map(|noun| format!("{noun}_")))
            .collect();
        for recipe in RECIPES {
            let words = recipe.text.split(|c: char| !(c.is_ascii_lowercase() || c == '_'));
            for word in words.filter(|w| nouns.iter().any(|n| w.starts_with(n.as_str()) && w.len() > n.len()))
            {
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
