package simulator

// What belongs to the account that made it. For other accounts it does not
// exist.

import (
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"
)

type resourceKind string

const (
	kindBatch     resourceKind = "batch"
	kindFile      resourceKind = "file"
	kindSkill     resourceKind = "skill"
	kindContainer resourceKind = "container"
)

const containerLife = 30 * 24 * time.Hour

// maxResources bounds what one account keeps; the oldest go first.
const maxResources = 10_000

// A resource is a batch, a file, a skill or a container of an account.
type resource struct {
	kind    resourceKind
	id      string
	created time.Time

	batch   *batch
	file    fileInfo
	content []byte
	skill   skillInfo
}

func (a *account) own(r *resource) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.resources = append(a.resources, r)
	if len(a.resources) > maxResources {
		a.resources = slices.Delete(a.resources, 0, 1)
	}
}

// resource returns the account's resource of that kind and id, or nil.
func (a *account) resource(kind resourceKind, id string) *resource {
	a.mu.Lock()
	defer a.mu.Unlock()
	i := slices.IndexFunc(a.resources, func(r *resource) bool { return r.kind == kind && r.id == id })
	if i < 0 {
		return nil
	}
	return a.resources[i]
}

func (a *account) disown(r *resource) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.resources = slices.DeleteFunc(a.resources, func(other *resource) bool { return other == r })
}

// newest returns the account's resources of a kind, newest first.
func (a *account) newest(kind resourceKind) []*resource {
	a.mu.Lock()
	defer a.mu.Unlock()
	var list []*resource
	for _, r := range slices.Backward(a.resources) {
		if r.kind == kind {
			list = append(list, r)
		}
	}
	return list
}

// named returns the resource that the path names, or answers 404.
func (x *Exchange) named(kind resourceKind, what string) *resource {
	r := x.account.resource(kind, x.id)
	if r == nil {
		x.fail(*missing(what + " not found: " + x.id))
	}
	return r
}

// An item can stand in a list that is paged by its id.
type item interface{ key() string }

// page is a part of a list.
type page[T item] struct {
	Data    []T     `json:"data"`
	HasMore bool    `json:"has_more"`
	FirstID *string `json:"first_id"`
	LastID  *string `json:"last_id"`
}

// servePage answers with the part of a list that limit, after_id and before_id
// ask for.
func servePage[T item](x *Exchange, list []T) {
	query := x.Request.URL.Query()
	limit, problem := readLimit(query)
	if problem != nil {
		x.fail(*problem)
		return
	}
	p := page[T]{Data: []T{}}
	if before := query.Get("before_id"); before != "" {
		i := slices.IndexFunc(list, func(v T) bool { return v.key() == before })
		list = list[:max(i, 0)]
		p.HasMore = len(list) > limit
		list = list[max(len(list)-limit, 0):]
	} else {
		if after := query.Get("after_id"); after != "" {
			i := slices.IndexFunc(list, func(v T) bool { return v.key() == after })
			list = list[i+1:]
		}
		p.HasMore = len(list) > limit
		list = list[:min(limit, len(list))]
	}
	if len(list) > 0 {
		first, last := list[0].key(), list[len(list)-1].key()
		p.Data, p.FirstID, p.LastID = list, &first, &last
	}
	x.json(http.StatusOK, p)
}

func readLimit(query url.Values) (int, *apiError) {
	if !query.Has("limit") {
		return 20, nil
	}
	limit, err := strconv.Atoi(query.Get("limit"))
	if err != nil || limit < 1 || limit > 1000 {
		return 0, badRequest("limit: Input should be between 1 and 1000")
	}
	return limit, nil
}

// deleted is the answer to a DELETE.
type deleted struct {
	ID   string `json:"id"`
	Type string `json:"type"`
}

// stamp writes a time as the service does.
func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339Nano) }
