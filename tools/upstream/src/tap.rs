// SPDX-License-Identifier: GPL-2.0

//! The verdicts that a script of the selftests prints at its end (`mptcp_lib_result_print_all_tap`).

use std::fmt;

/// What a script says about a subtest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Pass,
    Fail,
    /// The script thinks that something needed is missing.
    Skip,
    /// Failed, but the script calls the subtest flaky.
    Ignored,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pass => "pass",
            Self::Fail => "FAIL",
            Self::Skip => "skipped",
            Self::Ignored => "failed, called flaky",
        })
    }
}

/// One subtest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subtest {
    /// Without the script's name before it and the time after it.
    pub name: String,
    pub verdict: Verdict,
}

/// The subtests of one script, read line by line from its output.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Results {
    started: bool,
    planned: Option<usize>,
    subtests: Vec<Subtest>,
}

impl Results {
    /// Takes in one line of the script's output.
    pub fn line(&mut self, line: &str) {
        if line == "TAP version 13" {
            *self = Self {
                started: true,
                ..Self::default()
            };
        } else if self.started {
            if let Some(count) = line.strip_prefix("1..") {
                self.planned = count.parse().ok();
            } else if let Some(subtest) = subtest(line) {
                self.subtests.push(subtest);
            }
        }
    }

    /// The subtests in order, if the script told all that it planned.
    pub fn complete(&self) -> Option<&[Subtest]> {
        (self.planned == Some(self.subtests.len()) && !self.subtests.is_empty())
            .then_some(&self.subtests)
    }
}

/// `[not ]ok ID - SCRIPT: NAME # [SKIP|IGNORE Flaky|…] time=…`
fn subtest(line: &str) -> Option<Subtest> {
    let (passed, rest) = match line.strip_prefix("not ok ") {
        Some(rest) => (false, rest),
        None => (true, line.strip_prefix("ok ")?),
    };
    let (_, description) = rest.split_once(" - ")?;
    let (title, directive) = description.split_once(" # ").unwrap_or((description, ""));
    let (_, name) = title.split_once(": ")?;
    let verdict = if !passed {
        Verdict::Fail
    } else if directive.starts_with("SKIP") {
        Verdict::Skip
    } else if directive.starts_with("IGNORE") {
        Verdict::Ignored
    } else {
        Verdict::Pass
    };
    Some(Subtest {
        name: name.trim().to_owned(),
        verdict,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Results {
        let mut results = Results::default();
        text.lines().for_each(|line| results.line(line));
        results
    }

    #[test]
    fn each_verdict_is_told_apart() {
        let results = read(
            "01 after MPC handshake    [ OK ]\n\nTAP version 13\n1..4\n\
             ok 1 - diag: after MPC handshake # time=12ms\n\
             not ok 2 - pm_netlink:   (nobackup) # error 2 time=1ms\n\
             ok 3 - mptcp_connect: tproxy ipv4 # SKIP time=3ms\n\
             ok 4 - mptcp_join: signal: x # IGNORE Flaky time=4ms\n",
        );
        let told: Vec<_> = results
            .complete()
            .unwrap()
            .iter()
            .map(|subtest| (subtest.name.as_str(), subtest.verdict))
            .collect();
        assert_eq!(
            told,
            [
                ("after MPC handshake", Verdict::Pass),
                ("(nobackup)", Verdict::Fail),
                ("tproxy ipv4", Verdict::Skip),
                ("signal: x", Verdict::Ignored),
            ]
        );
    }

    #[test]
    fn a_missing_subtest_is_noticed() {
        assert_eq!(
            read("TAP version 13\n1..2\nok 1 - diag: a # time=1ms\n").complete(),
            None
        );
    }

    #[test]
    fn output_without_verdicts_is_not_success() {
        assert_eq!(read("ok 1 - diag: a\n").complete(), None);
        assert_eq!(read("TAP version 13\n1..0\n").complete(), None);
    }
}
