package client

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/tunefleet/tunefleet/schemas"
)

// Pools says what control decided last for each pool.
func (c *Client) Pools(ctx context.Context) (*schemas.PoolList, error) {
	return get[schemas.PoolList](ctx, c, http.MethodGet, "/v1/pools", nil)
}

func policyPath(pool string) string { return "/v1/pools/" + url.PathEscape(pool) + "/policy" }

// Policy returns a pool's policy and its version for SetPolicy.
func (c *Client) Policy(ctx context.Context, pool string) (*schemas.Policy, string, error) {
	return c.policy(ctx, http.MethodGet, pool, nil, nil)
}

// SetPolicy replaces that version of a pool's policy; CodeConflict when there is another one by now.
func (c *Client) SetPolicy(ctx context.Context, p *schemas.Policy, version string) (*schemas.Policy, string, error) {
	data, err := json.Marshal(p)
	if err != nil {
		return nil, "", fmt.Errorf("cannot encode the policy: %w", err)
	}
	return c.policy(ctx, http.MethodPut, p.Pool, data, http.Header{"If-Match": {strconv.Quote(version)}, "Content-Type": {"application/json"}})
}

func (c *Client) policy(ctx context.Context, method, pool string, body []byte, header http.Header) (*schemas.Policy, string, error) {
	var r io.Reader
	size := int64(-1)
	if body != nil {
		r, size = bytes.NewReader(body), int64(len(body))
	}
	ctx, cancel := c.bounded(ctx)
	defer cancel()
	resp, err := c.do(ctx, method, policyPath(pool), r, size, header)
	if err != nil {
		return nil, "", err
	}
	defer resp.Body.Close()
	p := &schemas.Policy{}
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxBody)).Decode(p); err != nil {
		return nil, "", schemas.Errorf(schemas.CodeUnavailable, c.base, "cannot read the server's answer: %v", err)
	}
	return p, strings.Trim(resp.Header.Get("ETag"), `"`), nil
}

// DeadLetters returns one page of the dead letters of a tenant ("" = of all).
func (c *Client) DeadLetters(ctx context.Context, tenant, after string, limit int) (*schemas.DeadLetterList, error) {
	q := url.Values{}
	for k, v := range map[string]string{"tenant": tenant, "after": after} {
		if v != "" {
			q.Set(k, v)
		}
	}
	if limit > 0 {
		q.Set("limit", strconv.Itoa(limit))
	}
	return get[schemas.DeadLetterList](ctx, c, http.MethodGet, "/v1/dlq?"+q.Encode(), nil)
}

func letterPath(tenant, run string) string {
	return "/v1/dlq/" + url.PathEscape(tenant) + "/" + url.PathEscape(run)
}

// RetryDeadLetter submits a failed run again; the reply names the new run.
func (c *Client) RetryDeadLetter(ctx context.Context, tenant, run string) (*schemas.SubmitReply, error) {
	return get[schemas.SubmitReply](ctx, c, http.MethodPost, letterPath(tenant, run)+"/retry", []byte("{}"))
}

// DropDeadLetter forgets the dead letter of a run.
func (c *Client) DropDeadLetter(ctx context.Context, tenant, run string) error {
	return c.order(ctx, http.MethodDelete, letterPath(tenant, run))
}

// Checkpoints lists a run's checkpoints; with verify the server reads and compares every part.
func (c *Client) Checkpoints(ctx context.Context, tenant, run string, verify bool) (*schemas.CheckpointList, error) {
	if verify {
		return wait[schemas.CheckpointList](ctx, c, http.MethodPost, runPath(tenant, run)+"/checkpoints/verify", []byte("{}"))
	}
	return get[schemas.CheckpointList](ctx, c, http.MethodGet, runPath(tenant, run)+"/checkpoints", nil)
}

// CollectCheckpoints deletes parts that nothing needs; with dry it counts them.
func (c *Client) CollectCheckpoints(ctx context.Context, tenant, run string, dry bool) (*schemas.CheckpointList, error) {
	return wait[schemas.CheckpointList](ctx, c, http.MethodPost, runPath(tenant, run)+"/checkpoints/gc?dry="+strconv.FormatBool(dry), []byte("{}"))
}

// PinCheckpoint keeps a checkpoint for good, or no longer.
func (c *Client) PinCheckpoint(ctx context.Context, tenant, run, name string, pin bool) error {
	method := http.MethodPut
	if !pin {
		method = http.MethodDelete
	}
	return c.order(ctx, method, runPath(tenant, run)+"/checkpoints/"+url.PathEscape(name)+"/pin")
}

// order sends a request whose answer has no body.
func (c *Client) order(ctx context.Context, method, path string) error {
	ctx, cancel := c.bounded(ctx)
	defer cancel()
	resp, err := c.do(ctx, method, path, nil, -1, nil)
	if err != nil {
		return err
	}
	return resp.Body.Close()
}

// SignInCode asks for a code that signs a browser in once, within an hour.
func (c *Client) SignInCode(ctx context.Context) (*schemas.SignIn, error) {
	return get[schemas.SignIn](ctx, c, http.MethodPost, "/v1/session/codes", nil)
}
