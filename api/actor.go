package api

import "context"

type actorKey struct{}

// WithActor returns a context that says who acts, for the audit trail.
func WithActor(ctx context.Context, who string) context.Context {
	return context.WithValue(ctx, actorKey{}, who)
}

// Actor returns who acts, "admin" if nobody has said more.
func Actor(ctx context.Context) string {
	if who, ok := ctx.Value(actorKey{}).(string); ok && who != "" {
		return who
	}
	return "admin"
}
