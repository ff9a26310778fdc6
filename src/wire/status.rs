//! What an HTTP status says about a call: whether it is a result or asks for another try, and whether
//! the upstream did anything (durability.md, section 4, "Errors", and section 6).

/// Whether an answer with this status is a result: recorded, and served again as it was. Everything else
/// is a try: an equal request tries again.
pub fn is_result(status: u16) -> bool {
    !matches!(status, 401 | 403 | 407 | 408 | 425 | 429 | 500..)
}

/// Whether the upstream said that it did not execute the call. Even an effect may then be sent again.
pub fn is_not_executed(status: u16) -> bool {
    matches!(status, 401 | 403 | 407 | 429)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deterministic_answers_are_results_and_the_others_are_tries() {
        for status in [200, 201, 202, 204, 301, 304, 400, 402, 404, 405, 409, 410, 413, 415, 418, 422, 451] {
            assert!(is_result(status), "status: {status}");
        }
        for status in [401, 403, 407, 408, 425, 429, 500, 501, 502, 503, 504, 529, 599] {
            assert!(!is_result(status), "status: {status}");
        }
    }

    #[test]
    fn only_a_rejection_at_the_door_proves_that_nothing_was_done() {
        let proven: Vec<u16> = (100..600).filter(|status| is_not_executed(*status)).collect();
        assert_eq!(proven, [401, 403, 407, 429]);
    }
}
