// Package signin is what Claude Code expects of a gateway that it signs in to,
// beside the API itself: device sign-in and its tokens, managed settings and
// telemetry. It knows nothing of the server that it runs in; client address,
// own base URL and authenticated user come in as values.
//
// Source of its rules: Claude Code's gateway protocol, RFC 8628, RFC 8414,
// RFC 7009 and RFC 6749.
package signin
