//! Scenarios: parsed, planned, run, observed, compared.
