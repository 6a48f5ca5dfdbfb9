//! The limits of scripts that only browsers or back ends play.

use crate::limits::Limits;

/// Limits so small that a short script reaches them.
pub(super) fn limits() -> Limits {
    Limits {
        control_frame_bytes: 2048,
        control_frame_unauthenticated_bytes: 1024,
        control_frame_ms: 1000,
        control_input_bytes: 3000,
        control_replies_pause_bytes: 1024,
        control_replies_ms: 2000,
        control_commands_per_turn: 2,
        deliveries_per_turn: 2,
        http_head_bytes: 512,
        http_head_ms: 1000,
        auth_ms: 1000,
        message_bytes: 1024,
        message_unauthenticated_bytes: 512,
        message_fragments: 3,
        heartbeat_ms: 2000,
        heartbeat_answer_ms: 1000,
        backlog_bytes: 1024,
        answers_pause_bytes: 1024,
        channels_per_connection: 3,
        subscriptions: 160,
        connections_per_user: 2,
        namespaces: 3,
        name_bytes: 16,
        grants_per_namespace: 2,
        states_per_namespace: 3,
        state_bytes: 200,
        list_items: 3,
        channels_per_emit: 3,
        emit_bytes: 1024,
        publication_bytes: 1300,
        ..Limits::default()
    }
}
