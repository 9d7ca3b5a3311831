// Keeping the page up to date: server-sent events while they flow, polling
// while they do not. Both heal by themselves.

const POLL_MS = 5_000;
const REOPEN_MS = 5_000;
const FULL_REFRESH_MS = 60_000; // catches what no event tells: windows that reset, charts that move on

const labels = {
  connecting: "Connecting…",
  live: "Live",
  polling: "Polling every 5 s",
  offline: "Reconnecting…",
};

// keepLive calls onRequest and onAccounts for events, and refresh when all
// should be read again. refresh resolves to whether the balancer answered.
export function keepLive({ status, onRequest, onAccounts, refresh }) {
  let flowing = false;
  let refreshing = false;
  let again = false; // something asked while a refresh was under way

  const show = (state) => {
    if (status.dataset.state === state) return;
    status.dataset.state = state;
    status.textContent = labels[state];
  };

  const refreshNow = async () => {
    again = refreshing;
    if (refreshing) return;
    refreshing = true;
    const answered = await refresh();
    refreshing = false;
    if (!flowing) show(answered ? "polling" : "offline");
    if (again) refreshNow();
  };

  const open = () => {
    const source = new EventSource("/api/events");
    source.addEventListener("open", () => {
      flowing = true;
      show("live");
      refreshNow(); // what happened while the feed was down
    });
    source.addEventListener("request", (e) => onRequest(JSON.parse(e.data)));
    source.addEventListener("accounts", onAccounts);
    source.addEventListener("error", () => {
      if (flowing) {
        flowing = false;
        refreshNow(); // tells an ended feed from a balancer that is gone
      }
      if (source.readyState !== EventSource.CLOSED) return; // the browser tries again itself
      setTimeout(open, REOPEN_MS);
    });
  };

  const refreshIfSeen = () => {
    if (!document.hidden) refreshNow();
  };
  document.addEventListener("visibilitychange", refreshIfSeen);
  setInterval(() => {
    if (!flowing) refreshIfSeen();
  }, POLL_MS);
  setInterval(refreshIfSeen, FULL_REFRESH_MS);

  refreshNow();
  open();
}
