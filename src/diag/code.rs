//! The list of codes. Each is a number, a name in the program and a page for people.

use std::fmt;

/// Text that names no code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no such code; codes look like OG1001")]
pub struct BadCode;

macro_rules! codes {
    ($($(#[$doc:meta])* $number:literal $name:ident,)*) => {
        /// A code and its page.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Code {
            $($(#[$doc])* $name = $number,)*
        }

        impl Code {
            /// Every code, in ascending order.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// As it is written everywhere: `OG1001`.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => concat!("OG", $number),)*
                }
            }

            /// What happened, why, what to do, and whether it is safe to send again. Markdown.
            pub fn page(self) -> &'static str {
                match self {
                    $(Self::$name => include_str!(concat!("codes/OG", $number, ".md")),)*
                }
            }
        }
    };
}

codes! {
    // 1: the request.
    /// 400: the workflow id breaks its form.
    1001 BadWorkflowId,
    /// 400: the attempt is no number from 1.
    1002 BadAttempt,
    /// 400: path, header and key name different workflows or attempts.
    1003 WorkflowSourcesDisagree,
    /// 404: the path names no configured upstream.
    1004 UnknownUpstream,
    /// 413: the request body is larger than `limits.body_mib_max`.
    1005 BodyTooLarge,
    /// 415: the request body is compressed in a way the sidecar cannot read.
    1006 UnsupportedEncoding,
    /// 400: the request body does not decode as its `Content-Encoding` says.
    1007 DamagedEncoding,
    /// 501: `Upgrade` or `CONNECT`.
    1008 UpgradeRefused,
    /// 404: the path does not begin like a path of the sidecar.
    1009 BadPath,
    /// 408: the request body stopped coming. 400: it ended before its announced length.
    1010 BodyTimeout,
    /// JSON-RPC -32601: an MCP method that the sidecar does not know.
    1011 UnknownMcpMethod,
    /// JSON-RPC -32700 or -32600: no MCP message, or one that could not be recorded.
    1012 BadMcpMessage,
    /// 403: the policies do not allow the call.
    1013 PolicyDenied,
    // 2: the config.
    /// The config file cannot be read.
    2001 ConfigUnreadable,
    /// The config file is not YAML.
    2002 ConfigNotYaml,
    /// A key that does not exist.
    2003 UnknownKey,
    /// A value of the wrong kind.
    2004 BadValue,
    /// A key that must be there is not.
    2005 MissingKey,
    /// A number outside its bounds.
    2006 OutOfBounds,
    /// `${NAME}` with no value.
    2007 VariableNotSet,
    /// The name of an upstream breaks its form.
    2008 BadUpstreamName,
    /// The URL of an upstream cannot be used.
    2009 BadUpstreamUrl,
    /// A listener that other machines can reach, without `expose: true`.
    2010 ExposedListener,
    /// An address is used twice.
    2011 AddressTwice,
    /// A variable in `env` cannot be set.
    2012 BadEnv,
    /// An upstream is the sidecar itself.
    2013 CallsItself,
    /// `ca_file` cannot be read or has no meaning.
    2014 BadCaFile,
    /// The default workflow is no workflow id.
    2015 BadDefaultWorkflow,
    /// An `--env` argument cannot be used.
    2016 BadEnvArgument,
    /// What is said of a tool means nothing.
    2017 BadTool,
    /// What is kept of closed workflows is kept in the wrong order.
    2018 BadRetention,
    /// What is said of matching means nothing, or would take different calls for one.
    2019 BadMatch,
    /// A file or folder of policies cannot be read, or nests too deep.
    2020 PolicyUnreadable,
    /// A policy file is not Cedar.
    2021 PolicyNotCedar,
    /// A policy asks for something that is not there, or of another type.
    2022 PolicyBadType,
    /// An annotation is missing, unknown or wrong.
    2023 BadPolicyAnnotation,
    /// A policy is Cedar and well typed, and would not do what it says.
    2024 PolicyUnsound,
    /// A lock file of pinned tools cannot be used.
    2025 BadToolPin,
    /// A policy test cannot be run.
    2026 BadPolicyTest,
    // 3: the workflow and its journal.
    /// 422: this effect may have happened already.
    3001 InDoubt,
    /// 422: a newer attempt has taken over.
    3002 AttemptFenced,
    /// 422: another live process is at work on the workflow.
    3003 UnrelatedProcess,
    /// 422: the workflow is closed.
    3004 WorkflowClosed,
    /// 503: the journal cannot be written.
    3005 JournalUnavailable,
    /// 422: the recorded answer was too large to keep.
    3006 BodyNotRecorded,
    /// 422: the workflow's records are damaged.
    3007 WorkflowDamaged,
    /// 503: the sidecar is shutting down.
    3008 ShuttingDown,
    /// 422: it cannot be told whether the agent was restarted.
    3009 AttemptUnknown,
    /// 422: this effect was given up while in doubt.
    3010 StepAbandoned,
    /// 403: only issued workflows take calls, and this is none.
    3011 UnknownWorkflow,
    /// 422: the restarted agent has gone another way than the recorded run.
    3012 Diverged,
    /// 422: the step was completed, and its recorded answer has expired.
    3013 BodyExpired,
    /// 422: the workflow was closed so long ago that its records are gone.
    3014 WorkflowRemoved,
    /// 422: a strict replay has no recorded answer to this call.
    3015 NotInRun,
    // 4: the upstream.
    /// 502: no connection to the upstream.
    4001 UpstreamUnreachable,
    /// 502: no TLS with the upstream.
    4002 UpstreamTls,
    /// 504: the upstream stays silent.
    4003 UpstreamTimeout,
    /// 502: the upstream broke off.
    4004 UpstreamCut,
    // 5: starting and the command line.
    /// The address is taken.
    5001 PortTaken,
    /// Another process has the journal.
    5002 JournalLocked,
    /// The journal's directory cannot be written.
    5003 JournalUnwritable,
    /// No space for the journal.
    5004 NoSpace,
    /// No sidecar answers.
    5005 SidecarUnreachable,
    /// The workflow is not in the journal.
    5006 NoSuchWorkflow,
    /// The journal was written by a newer version.
    5007 JournalNewer,
    /// The directory holds something else.
    5008 NotAJournal,
    /// The journal is on a network file system.
    5009 NetworkFileSystem,
    /// The command cannot be started.
    5010 CommandNotStarted,
    /// The command died too often.
    5011 RestartsExhausted,
    /// The step cannot be resolved.
    5012 NotInDoubt,
    /// The file is not what was exported.
    5013 BadExport,
    /// The journal has other records of the workflow.
    5014 WorkflowThere,
    /// 503: the journal has reached the size that it may have.
    5015 JournalFull,
    /// A strict replay was to be complete, and recorded steps were not asked for.
    5016 ReplayIncomplete,
    /// There are no such attempts to compare.
    5017 NothingToCompare,
    /// The path of a listener's socket cannot be had.
    5018 SocketTaken,
}

impl Code {
    /// # Errors
    /// [`BadCode`] unless the text is a code of the list: `OG1001`, `og1001` or `1001`.
    pub fn parse(text: &str) -> Result<Self, BadCode> {
        let digits = text.get(..2).filter(|head| head.eq_ignore_ascii_case("og")).and_then(|_| text.get(2..));
        let digits = digits.unwrap_or(text);
        let found = Self::ALL.iter().copied().find(|code| code.as_str().get(2..) == Some(digits));
        found.ok_or(BadCode)
    }

    /// The first line of the page, without the code.
    pub fn title(self) -> &'static str {
        let line = self.page().lines().next().unwrap_or_default();
        line.split_once(": ").map_or(line, |(_, title)| title)
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_a_page_with_the_four_answers() {
        for code in Code::ALL {
            let page = code.page();
            assert!(page.starts_with(&format!("# {code}: ")), "{code}: the first line is its title");
            assert!(!code.title().is_empty() && code.title().len() <= 70, "{code}: {}", code.title());
            let mut rest = page;
            for heading in ["## Why", "## What to do", "## Is it safe to send again?"] {
                let at =
                    rest.find(&format!("\n{heading}\n\n")).unwrap_or_else(|| panic!("{code}: no {heading}"));
                rest = &rest[at + 1..];
            }
            assert!(page.lines().all(|line| line.chars().count() <= 110), "{code}: a line is too long");
            assert!(page.ends_with('\n') && !page.ends_with("\n\n"), "{code}: ends in one line break");
        }
    }

    #[test]
    fn codes_are_found_by_any_spelling_and_nothing_else_is() {
        for code in Code::ALL {
            assert_eq!(Code::parse(code.as_str()), Ok(*code));
        }
        assert_eq!(Code::parse("og1001"), Ok(Code::BadWorkflowId));
        assert_eq!(Code::parse("1001"), Ok(Code::BadWorkflowId));
        for text in ["", "OG", "OG9999", "OGOG1001", "OG 1001", "é001", "1001 "] {
            assert_eq!(Code::parse(text), Err(BadCode), "input: {text:?}");
        }
    }

    #[test]
    fn codes_ascend() {
        assert!(Code::ALL.windows(2).all(|pair| pair[0] < pair[1]));
    }
}
