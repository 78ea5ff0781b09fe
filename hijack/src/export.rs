//! How a function gets the name of one in libc.

/// Defines functions under libc's names. Their bodies are unsafe as those functions are: callers owe what the manual
/// page of the name says.
macro_rules! export {
    ($(fn $name:ident($($argument:ident: $kind:ty),* $(,)?) -> $result:ty $body:block)*) => {
        $(
            /// # Safety
            /// As the function of libc with this name.
            #[unsafe(no_mangle)]
            #[allow(unused_unsafe)]
            pub unsafe extern "C-unwind" fn $name($($argument: $kind),*) -> $result {
                // SAFETY: the arguments are what the manual page of this name demands, and are used as it says.
                unsafe { $body }
            }
        )*
    };
}

pub(crate) use export;
