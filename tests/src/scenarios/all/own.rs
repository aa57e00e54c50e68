//! Scenarios about whyrst itself: files, signals, reports and mitigations. They run on the oldest and the newest kernel.

use super::super::Named::{AtLeast, Each, Nothing, Several};
use super::super::{
    Scenario, bad_input, doctor, download, faults, mitigations, mitigations_applied, rotated, ruleset, scale,
};
use super::{DELETED, NO_LISTENER, REJECTED, SEQ_OVER, scenario};

/// In the order in which they are run.
pub(super) const LIST: &[Scenario] = &[
    scenario("clean-download", "a download that nothing happens to", download::clean, Nothing),
    scenario(
        "two-flows",
        "two downloads at once, one disturbed: only the victim is named",
        download::two_flows,
        Each("out-of-window/seq-over by gateway-stack"),
    ),
    scenario(
        "mitigate-nft",
        "the printed commands of drop-invalid-input (nft) and be-liberal prevent the RST of seq-over; their undo restores the gateway",
        mitigations::by_nft,
        Each(SEQ_OVER),
    ),
    scenario("mitigate-iptables", "the same where iptables translates", mitigations::by_iptables, Each(SEQ_OVER)),
    scenario("mitigate-legacy", "the same where legacy iptables translates", mitigations::by_legacy, Each(SEQ_OVER)),
    scenario(
        "mitigate-ignore-invalid-rst",
        "the printed commands of ignore-invalid-rst let a dead server's RST through",
        mitigations::ignore_invalid_rst,
        Each("invalid-state/invalid-rst by nobody"),
    ),
    scenario(
        "mitigate-timeout",
        "the printed commands of raise-timeout keep an idle connection",
        mitigations::raise_timeout,
        Each("no-entry/expired by gateway-stack"),
    ),
    scenario(
        "mitigate-table-size",
        "the printed commands of raise-table-size keep half-open connections from being evicted",
        mitigations::raise_table_size,
        AtLeast(50, "no-entry/evicted by gateway-stack"),
    ),
    scenario(
        "mitigate-untrack",
        "the printed commands of untrack-service (nft) keep a service from being rejected",
        mitigations::untrack_by_nft,
        Each(REJECTED),
    ),
    scenario(
        "mitigate-untrack-iptables",
        "the same where iptables filters",
        mitigations::untrack_by_iptables,
        Each(REJECTED),
    ),
    scenario(
        "mitigate-untrack-legacy",
        "the same where legacy iptables filters",
        mitigations::untrack_by_legacy,
        Each(REJECTED),
    ),
    scenario(
        "mitigate-apply",
        "whyrst mitigate --apply and --undo, refusals, and a command that fails half-way",
        mitigations_applied::run,
        Each(SEQ_OVER),
    ),
    scenario(
        "many-flows",
        "200 connections at once, 7 victims of 4 causes",
        scale::many_flows,
        Several(&[(2, SEQ_OVER), (2, DELETED), (2, REJECTED), (1, "not-tracked by gateway-stack")]),
    ),
    scenario(
        "rotated",
        "a recording in many files, beside one in a single file and one on a disk that is too small",
        rotated::run,
        Several(&[(rotated::VICTIMS, SEQ_OVER)]),
    ),
    scenario("fault-ended", "SIGINT, SIGTERM and SIGHUP leave a whole recording", faults::ended::run, Nothing),
    scenario(
        "fault-file-removed",
        "the recording is removed, or moved, while it is written",
        faults::disk::file_removed,
        Nothing,
    ),
    scenario(
        "fault-directory-removed",
        "the recordings' directory is removed while they are written",
        faults::disk::directory_removed,
        Nothing,
    ),
    scenario("fault-disk-full", "the disk is full in the middle of a recording", faults::disk::full, Nothing),
    scenario(
        "fault-read-only",
        "the file system becomes read-only under recordings and a report",
        faults::disk::read_only,
        Nothing,
    ),
    scenario(
        "fault-clock-stepped",
        "the wall clock is set forwards and back during a capture",
        faults::clock::stepped,
        Several(&[(3, SEQ_OVER)]),
    ),
    scenario(
        "fault-namespaces",
        "namespaces with refusals in them are deleted at once",
        faults::namespaces::churn,
        Several(&[(1, SEQ_OVER), (faults::namespaces::SHORT_LIVED, NO_LISTENER)]),
    ),
    scenario(
        "fault-ruleset-replaced",
        "all rules are replaced between two REJECTs",
        faults::rules::replaced,
        Several(&[(1, SEQ_OVER), (2, REJECTED)]),
    ),
    scenario(
        "fault-memory",
        "whyrst in control groups with little memory: it runs, or says why not; exit status 3",
        faults::memory::limited,
        Nothing,
    ),
    scenario(
        "fault-two-captures",
        "two whyrst at once, with every option",
        faults::crowded::two,
        Several(&[(3, SEQ_OVER)]),
    ),
    scenario(
        "fault-two-mitigations",
        "the same mitigation is applied twice at once",
        faults::crowded::two_mitigations,
        Each(SEQ_OVER),
    ),
    scenario("doctor-healthy", "a gateway that is well: neither warning nor worse", doctor::healthy, Nothing),
    scenario(
        "doctor-full-table",
        "the table is full: the doctor names who fills it, and its commands help",
        doctor::full_table,
        Nothing,
    ),
    scenario(
        "doctor-rules",
        "rules of nft and of both iptables that drop INVALID packets or exempt from tracking",
        doctor::rules,
        Nothing,
    ),
    scenario("doctor-ports", "all NAT ports towards a server are in use", doctor::ports, Nothing),
    scenario("rulesets-judged", "walks through rulesets, judged by the kernel", ruleset::judged, Nothing),
    scenario("doctor-ruleset", "rulesets of files, hostile ones among them", ruleset::sent, Nothing),
    scenario("doctor-unprivileged", "the doctor without privileges", doctor::unprivileged, Nothing),
    scenario("doctor-untraceable", "the doctor without /sys/kernel/btf", doctor::untraceable, Nothing),
    scenario("not-root", "without privileges: exit status 3 and which are missing", bad_input::not_root, Nothing),
    scenario("full-disk", "-o and --record on a full disk: exit status 2", bad_input::full_disk, Nothing),
    scenario(
        "signals",
        "SIGTERM ends a capture like Ctrl-C; a closed pipe ends it quietly",
        bad_input::signals,
        Nothing,
    ),
];
