package api_test

import (
	"encoding/json"
	"net/http"
	"net/http/cookiejar"
	"strings"
	"testing"
	"time"

	"github.com/tunefleet/tunefleet/schemas"
)

// browser is a client as browsers are: with cookies, and without the token.
func (b *bench) browser(t *testing.T) *http.Client {
	t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	c := &http.Client{Jar: jar}
	t.Cleanup(c.CloseIdleConnections)
	return c
}

func (b *bench) status(t *testing.T, c *http.Client, method, path, body string, header ...string) int {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, b.url+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	for _, ck := range resp.Cookies() {
		if !ck.HttpOnly || ck.SameSite != http.SameSiteStrictMode || ck.Path != "/v1" || strings.Contains(ck.Value, token) {
			t.Errorf("cookie %v", ck)
		}
	}
	return resp.StatusCode
}

func (b *bench) session(t *testing.T, c *http.Client) (s schemas.Session) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, b.url+"/v1/session", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(&s); err != nil {
		t.Fatal(err)
	}
	return s
}

// TestBrowserSession: a browser signs in by the token or once by a code, is let in by its cookie, and is out again when it signs out.
func TestBrowserSession(t *testing.T) {
	b := start(t)
	c := b.browser(t)
	if got := b.status(t, c, "GET", "/v1/runs", ""); got != http.StatusUnauthorized {
		t.Fatalf("without a session: %d", got)
	}
	if got := b.status(t, c, "POST", "/v1/session", "", "Authorization", "Bearer wrong"); got != http.StatusUnauthorized {
		t.Errorf("a wrong token: %d", got)
	}
	if got := b.status(t, c, "POST", "/v1/session", "", "Authorization", "Bearer "+token); got != http.StatusOK {
		t.Fatalf("the token: %d", got)
	}
	if got := b.status(t, c, "GET", "/v1/runs", ""); got != http.StatusOK {
		t.Errorf("with a session: %d", got)
	}
	if s := b.session(t, c); !s.SignedIn || s.Expires.Before(time.Now().Add(time.Hour)) || s.Version != "test" {
		t.Errorf("session %+v", s)
	}
	if s := b.session(t, b.browser(t)); s != (schemas.Session{}) {
		t.Errorf("session of who has none: %+v", s)
	}
	if got := b.status(t, c, "GET", "/v1/runs", "", "Authorization", "Bearer wrong"); got != http.StatusUnauthorized {
		t.Errorf("a wrong token beside a session: %d", got)
	}
	if got := b.status(t, c, "POST", "/v1/runs", "{}", "Origin", "http://evil.example", "Sec-Fetch-Site", "cross-site"); got != http.StatusForbidden {
		t.Errorf("a request that another site makes: %d", got)
	}
	if got := b.status(t, c, "DELETE", "/v1/session", ""); got != http.StatusNoContent {
		t.Errorf("signing out: %d", got)
	}
	if got := b.status(t, c, "GET", "/v1/runs", ""); got != http.StatusUnauthorized {
		t.Errorf("signed out: %d", got)
	}

	in, err := b.client.SignInCode(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	body := `{"code":"` + in.Code + `"}`
	if got := b.status(t, c, "POST", "/v1/session", body); got != http.StatusOK {
		t.Fatalf("a code: %d", got)
	}
	if got := b.status(t, c, "GET", "/v1/runs", ""); got != http.StatusOK {
		t.Errorf("signed in by a code: %d", got)
	}
	for name, body := range map[string]string{"used twice": body, "made up": `{"code":"` + strings.Replace(in.Code, ".", "9.", 1) + `"}`, "none": `{}`, "no JSON": "x"} {
		if got := b.status(t, b.browser(t), "POST", "/v1/session", body); got != http.StatusUnauthorized {
			t.Errorf("a code that is %s: %d", name, got)
		}
	}
	forged := b.browser(t)
	if got := b.status(t, forged, "GET", "/v1/runs", "", "Cookie", "tunefleet-"+b.url[strings.LastIndexByte(b.url, ':')+1:]+"="+in.Code); got != http.StatusUnauthorized {
		t.Errorf("a code as a session: %d", got)
	}
}

// TestListQuery: what selects runs is checked, and an unknown parameter is not ignored.
func TestListQuery(t *testing.T) {
	b := start(t)
	for _, k := range []string{"k1", "k2"} {
		if _, err := b.client.Submit(t.Context(), spec(k)); err != nil {
			t.Fatal(err)
		}
	}
	list, err := b.client.List(t.Context(), schemas.RunFilter{Counts: true, Name: "CLAUSES", Pool: "cpu", States: []schemas.RunState{schemas.RunQueued, schemas.RunRunning}, Limit: 1})
	if err != nil || len(list.Runs) != 1 || list.Total != 2 || list.Counts[schemas.RunQueued] != 2 || list.Next == "" {
		t.Fatalf("list %+v, %v", list, err)
	}
	rest, err := b.client.List(t.Context(), schemas.RunFilter{Limit: 1, After: list.Next})
	if err != nil || len(rest.Runs) != 1 || rest.Runs[0].Run == list.Runs[0].Run || rest.Next != "" {
		t.Errorf("next page %+v, %v", rest, err)
	}
	for _, q := range []string{"state=sleeping", "sort=name", "since=yesterday", "limit=0", "counts=maybe", "pool=A%20B", "after=acme%2Fx"} {
		if got := b.status(t, http.DefaultClient, "GET", "/v1/runs?"+q, "", "Authorization", "Bearer "+token); got != http.StatusBadRequest {
			t.Errorf("?%s: %d", q, got)
		}
	}
}
