// Keys while no field is being written in: 1 2 3 typed from best to worst choose an order, Enter saves it,
// the arrows turn pages, x goes to the reason, e opens the editor. Esc leaves a field.
let typed = "";
const find = (id, what) => document.querySelector(`#verify-${id} ${what || ""}`.trim());
const press = (id) => (find(id, "button") || find(id)).click();
document.addEventListener("keydown", (event) => {
  const writing = event.target.closest("textarea, input:not([type=radio])");
  if (event.key === "Escape" && writing) return writing.blur();
  if (writing || event.ctrlKey || event.metaKey || event.altKey) return;
  if ("123".includes(event.key)) {
    typed = (typed.length === 3 || typed.includes(event.key) ? "" : typed) + event.key;
    if (typed.length === 3) {
      const wanted = [...find("order").querySelectorAll("label")]
        .filter((label) => label.textContent.replace(/\D/g, "") === typed)[0];
      if (wanted) wanted.querySelector("input").click();
    }
  } else if (event.key === "Enter") press("save");
  else if (event.key === "ArrowLeft") press("back");
  else if (event.key === "ArrowRight") press("forth");
  else if (event.key === "x") find("reason", "textarea, #verify-reason input").focus();
  else if (event.key === "e") press("edit");
  else return;
  event.preventDefault();
});
