//! Stories that must hold on every database. A new one is added here and to the list below.

mod calls;
mod deploying;
mod dns_providers;
mod domains;
mod environments;
mod error_maps;
mod errors;
mod grants;
mod identity;
mod isolation;
mod people;
mod pushing;
mod repositories;
mod sameness;
mod traffic;
mod work;

pub use calls::*;
pub use deploying::*;
pub use dns_providers::*;
pub use domains::*;
pub use environments::*;
pub use error_maps::*;
pub use errors::*;
pub use grants::*;
pub use identity::*;
pub use isolation::*;
pub use people::*;
pub use pushing::*;
pub use repositories::*;
pub use sameness::*;
pub use traffic::*;
pub use work::*;

/// Calls a macro with the names of all scenarios.
#[macro_export]
macro_rules! scenarios {
    ($with:ident) => {
        $with!(
            a_first_start_has_the_default_project,
            a_second_daemon_is_kept_away,
            another_key_is_refused,
            a_newer_database_is_refused,
            an_admin_token_is_made_once,
            tokens_work_until_they_expire_or_are_revoked,
            a_limited_token_cannot_make_a_wider_one,
            a_deleted_project_takes_its_tokens_along,
            events_become_issues_and_are_counted_once,
            a_resolved_issue_comes_back_in_a_newer_release_only,
            merged_and_split_issues_stay_so,
            late_maps_join_what_is_one_error,
            maps_do_not_join_what_people_or_frames_keep_apart,
            what_waits_for_maps_of_an_image_waits_until_they_are_taken,
            what_is_ignored_opens_when_its_time_or_number_has_come,
            a_release_is_known_by_the_environments_that_saw_it,
            maps_of_what_serves_stay,
            what_is_old_goes_and_its_counts_stay,
            a_replaced_key_is_accepted_until_its_time_is_over,
            the_intake_goes_on_where_it_was_read_to,
            what_an_earlier_version_accepted_is_read,
            what_is_erased_leaves_no_count,
            a_title_goes_with_the_event_that_it_may_be_of,
            a_name_goes_from_counts_and_feedback,
            rows_are_looked_through_once_each,
            what_came_beside_events_is_listed,
            a_release_tells_its_commits,
            a_job_forgets_whom_it_forgot,
            a_code_is_good_once_and_for_its_client_only,
            a_refresh_token_is_good_once,
            a_grant_is_never_more_than_its_token,
            what_is_given_back_ends,
            clients_that_nobody_approves_are_forgotten,
            every_call_is_found_again,
            calls_are_kept_within_limits,
            names_are_taken_once,
            settings_that_do_not_differ_change_nothing,
            variables_are_sealed_and_events_name_them_only,
            a_moved_or_changed_secret_does_not_open,
            a_foreign_project_is_invisible_by_name,
            deployments_are_numbered_without_gaps,
            a_state_changes_once,
            history_has_its_durations,
            the_switch_moves_the_pointer_and_the_states,
            a_rollback_reinstates_the_release_before,
            a_release_remembers_its_variables,
            cancelling_is_for_what_is_not_live_yet,
            the_same_twice_is_one_while_it_is_on_its_way,
            a_branch_is_the_same_only_while_it_waits,
            what_is_live_is_not_deployed_again,
            what_was_undone_is_not_the_same,
            the_order_holds_when_the_clock_is_set_back,
            the_same_push_is_taken_once,
            a_push_and_what_it_leads_to_are_one,
            what_strangers_push_is_kept_within_limits,
            rules_for_pushes_stay_until_they_are_changed,
            build_logs_are_read_from_both_ends,
            build_logs_are_capped,
            deleting_an_app_takes_everything_along,
            jobs_go_their_way,
            an_app_is_seen_in_each_environment,
            a_deleted_environment_takes_everything_along,
            a_branch_has_one_preview,
            what_is_nearer_wins_and_each_value_is_kept,
            a_forks_commit_is_approved_as_it_was_seen,
            cache_records_are_noted_once_and_forgotten,
            events_are_told_in_order,
            uploads_stay_while_they_are_needed,
            an_upload_stays_while_its_proposal_can_be_approved,
            a_key_does_the_work_once,
            credentials_of_dns_providers_are_sealed,
            a_domain_has_one_owner,
            what_an_app_approves_is_its_own_until_it_is_dropped,
            an_order_goes_its_way_once,
            keys_of_certificates_and_accounts_are_sealed,
            logs_are_searched,
            log_positions_go_with_their_lines,
            logs_are_pruned_by_age_and_size,
            requests_have_their_percentiles,
            text_from_outside_is_taken_as_it_is,
            a_repository_keeps_its_secrets_sealed,
            a_webhook_is_remembered_by_id_and_content,
            a_look_is_due_when_its_time_has_come,
            a_report_is_the_newest_and_sent_once,
            readers_see_what_was_written,
        );
    };
}
