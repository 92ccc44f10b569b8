package api

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/tunefleet/tunefleet/schemas"
)

// A browser signs in once, with the token or with a code that works once, and holds a cookie from then on that scripts cannot read. So the
// token is in no address and no storage of the browser, new tabs are signed in, and files are downloaded by plain links. Cookie and code are
// signed with a key made from the token: every replica of the API knows them, a restart keeps them, and another token ends them all.

// Lifetimes of a session, renewed whenever the dashboard is opened, and of a sign-in code.
const (
	sessionLife = 12 * time.Hour
	codeLife    = time.Hour
)

// maxSessionBody bounds the body of a sign-in; maxUsedCodes how many used codes are remembered.
const (
	maxSessionBody = 4 << 10
	maxUsedCodes   = 10_000
)

// sessions signs and checks cookies and codes.
type sessions struct {
	key []byte
	now func() time.Time

	mu   sync.Mutex
	used map[string]time.Time // codes that were used, until they would have ended
}

func newSessions(token string) *sessions {
	key := hmac.New(sha256.New, []byte(token))
	key.Write([]byte("tunefleet dashboard session"))
	return &sessions{key: key.Sum(nil), now: time.Now, used: map[string]time.Time{}}
}

// sign makes "<end>.<nonce>.<signature>"; what tells cookies and codes apart.
func (s *sessions) sign(what string, life time.Duration) (value string, end time.Time) {
	end = s.now().Add(life).Truncate(time.Second)
	text := strconv.FormatInt(end.Unix(), 10) + "." + strings.ToLower(rand.Text())
	return text + "." + s.mac(what, text), end
}

func (s *sessions) mac(what, text string) string {
	m := hmac.New(sha256.New, s.key)
	m.Write([]byte(what + "\x00" + text))
	return base64.RawURLEncoding.EncodeToString(m.Sum(nil))
}

// valid returns the end of a signed value, false for one that is over or not ours.
func (s *sessions) valid(what, value string) (end time.Time, ok bool) {
	i := strings.LastIndexByte(value, '.')
	if i < 0 || subtle.ConstantTimeCompare([]byte(value[i+1:]), []byte(s.mac(what, value[:i]))) != 1 {
		return end, false
	}
	at, _, _ := strings.Cut(value, ".")
	n, err := strconv.ParseInt(at, 10, 64)
	end = time.Unix(n, 0)
	return end, err == nil && s.now().Before(end)
}

// use takes a code; it works once on this server. When more codes were used than are remembered, none is taken until some have ended.
func (s *sessions) use(code string) bool {
	end, ok := s.valid("code", code)
	if !ok {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for c, until := range s.used {
		if s.now().After(until) {
			delete(s.used, c)
		}
	}
	if _, again := s.used[code]; again || len(s.used) >= maxUsedCodes {
		return false
	}
	s.used[code] = end
	return true
}

// SignInCode makes a code that signs a browser in once, within an hour: the dashboard takes it from "#code=" of its address.
func (s *Server) SignInCode() string {
	code, _ := s.sessions.sign("code", codeLife)
	return code
}

// cookieName tells the servers on one host apart: browsers give a cookie to every port.
func cookieName(r *http.Request) string {
	if _, port, err := net.SplitHostPort(r.Host); err == nil {
		return "tunefleet-" + port
	}
	return "tunefleet"
}

// signedIn reports whether a request carries the token, or the cookie of a session.
func (s *Server) signedIn(r *http.Request) bool {
	if r.Header.Get("Authorization") != "" {
		return s.bearer(r)
	}
	c, err := r.Cookie(cookieName(r))
	if err != nil {
		return false
	}
	_, ok := s.sessions.valid("session", c.Value)
	return ok
}

func (s *Server) bearer(r *http.Request) bool {
	kind, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	sum := sha256.Sum256([]byte(token))
	return strings.EqualFold(kind, "Bearer") && subtle.ConstantTimeCompare(sum[:], s.token[:]) == 1
}

// signIn begins a session for who sends the token, or a code in the body.
func (s *Server) signIn(w http.ResponseWriter, r *http.Request) {
	var in schemas.SignIn
	if !s.bearer(r) {
		err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxSessionBody)).Decode(&in)
		if r.Header.Get("Authorization") != "" || err != nil || !s.sessions.use(in.Code) {
			s.unauthorized(w, r, "the token or the sign-in code is not valid; a code works once, within an hour")
			return
		}
	}
	s.startSession(w, r)
}

// session says whether the browser is signed in, and renews a session that is still good: the dashboard asks when it is opened.
func (s *Server) session(w http.ResponseWriter, r *http.Request) {
	if !s.signedIn(r) {
		s.reply(w, r, http.StatusOK, schemas.Session{})
		return
	}
	s.startSession(w, r)
}

func (s *Server) startSession(w http.ResponseWriter, r *http.Request) {
	value, end := s.sessions.sign("session", sessionLife)
	http.SetCookie(w, s.cookie(r, value, int(sessionLife.Seconds())))
	s.reply(w, r, http.StatusOK, schemas.Session{SignedIn: true, Expires: end.UTC(), Version: s.cfg.Version})
}

// signOut ends the browser's session.
func (s *Server) signOut(w http.ResponseWriter, r *http.Request) {
	http.SetCookie(w, s.cookie(r, "", -1))
	w.WriteHeader(http.StatusNoContent)
}

// newCode gives who has the token a code to open the dashboard with.
func (s *Server) newCode(w http.ResponseWriter, r *http.Request) {
	code, end := s.sessions.sign("code", codeLife)
	s.reply(w, r, http.StatusOK, schemas.SignIn{Code: code, Expires: end.UTC()})
}

func (s *Server) cookie(r *http.Request, value string, age int) *http.Cookie {
	return &http.Cookie{Name: cookieName(r), Value: value, Path: "/v1", MaxAge: age, HttpOnly: true, SameSite: http.SameSiteStrictMode,
		Secure: r.TLS != nil || strings.EqualFold(r.Header.Get("X-Forwarded-Proto"), "https")}
}
